"""What recovery and releases both do to nodes: readiness, verification, voters, repair of replicas."""
