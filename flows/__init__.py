"""What runs, in what order. A flow names tasks; it computes nothing."""
