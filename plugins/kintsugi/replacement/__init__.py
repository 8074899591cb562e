"""Replacement of a node that serves, on purpose: its guards, its drain and its end; the rest is a recovery."""
