"""The throughput of the running pipeline, ``make bench``, and the soak test that kills the driver."""
