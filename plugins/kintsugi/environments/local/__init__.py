"""The nodes of the environment `local`: process trees of this machine."""
