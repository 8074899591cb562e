"""Are all trades where they belong? S3 against Kafka and Cassandra."""
