"""Both ends of the node protocol."""
