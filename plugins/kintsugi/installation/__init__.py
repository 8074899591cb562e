"""An installation as a person handles it: up, down, status, what happened."""
