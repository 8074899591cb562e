"""From S3 to Kafka."""
