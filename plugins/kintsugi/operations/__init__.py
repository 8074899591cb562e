"""What recovery and releases both do to nodes: readiness, verification, Kafka voters, data repair."""
