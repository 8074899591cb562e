"""Kafka's and Cassandra's protocols in frames, without a driver: for probes that must not wait for one."""
