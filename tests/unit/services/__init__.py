"""Background services against memory adapters: several nodes in one process."""
