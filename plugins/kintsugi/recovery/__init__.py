"""Recover a node that is down: pure decisions, and the steps that carry them out."""
