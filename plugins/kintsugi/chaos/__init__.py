"""Fault injection: the faults, and how their victims are picked."""
