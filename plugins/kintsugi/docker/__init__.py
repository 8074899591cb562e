"""The docker environment: every node is a container of one image (docs/decisions/0096)."""
