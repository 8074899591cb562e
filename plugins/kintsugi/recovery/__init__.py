"""What to do about a sick node: pure decisions, and the steps that carry them out."""
