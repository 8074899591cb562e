"""What leaves the installation for Honeycomb or any other OTLP backend, and what comes back from Honeycomb."""
