"""Sockets and files at kernel speed, each with a copy path."""
