"""The nodes of the environment `hosts`: on machines that exist already, reached by SSH (docs/decisions/0157)."""
