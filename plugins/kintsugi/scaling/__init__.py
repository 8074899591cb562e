"""Nodes are added to the fleet and removed from it while it serves, by an edit of the fleet file."""
