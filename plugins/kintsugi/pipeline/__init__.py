"""From S3 through Kafka and Spark to Cassandra: what its parts share."""
