"""From Kafka to Cassandra: what the Spark applications run."""
