"""Background work: one class each with run_once()."""
