"""The nodes of the environment `docker`: containers of one image (docs/decisions/0096)."""
