"""HTTP: parse, call the gateway, render."""
