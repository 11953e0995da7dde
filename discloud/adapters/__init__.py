"""Implementations of the ports for one process: memory, disk, sqlite."""
