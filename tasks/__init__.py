"""Prefect's tasks: one step each. Read references, call cift_models, write references, log; nothing is computed here."""
