"""How fast the running pipeline is, and against what: ``make bench``, and the soak that kills the driver."""
