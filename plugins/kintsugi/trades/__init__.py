"""Trades: their format, identity, way into Kafka and Cassandra, and the account of all of them."""
