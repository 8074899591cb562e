"""Questions to one Kafka broker or one Cassandra node in its protocol, for probes that can't wait for a client."""
