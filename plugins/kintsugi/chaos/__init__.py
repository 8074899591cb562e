"""Faults that are made on purpose, and how their victims are picked."""
