"""What judges a model: scores with intervals, calibration, costs, leak alarms, and one report a person understands in a minute."""
