"""The pure core: no I/O, no clock, no randomness; everything here can be simulated."""
