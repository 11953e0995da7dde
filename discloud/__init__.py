"""discloud: a mesh of equal containers that keep files together."""

__version__ = "0.1.0"
