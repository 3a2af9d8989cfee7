"""Patch vectors, the bank that remembers some of them, and distances to it."""
