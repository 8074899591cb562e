"""Sample trading days: a synthetic market, and the behaviour that is injected into it."""
