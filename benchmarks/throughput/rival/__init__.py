"""What a user would take instead of our stream: Spark with the Spark Cassandra Connector, measured on our messages.

See docs/decisions/0150-a-fair-rival-of-the-stream.md.
"""
