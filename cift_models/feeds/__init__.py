"""Foreign bytes to canonical tables: one file a format, one for the way back to events, one for the quality of rows."""
