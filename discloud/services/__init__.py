"""Background work: one class each with ``run_once() -> Report``; ``loop.ServiceLoop`` runs them (docs/operations/background-work.md)."""
