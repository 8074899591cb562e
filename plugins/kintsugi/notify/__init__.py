"""Whom to tell, what, and how it gets there: outbox, pages, digest, channels, heartbeats."""
