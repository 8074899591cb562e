"""Simulate fleets of 10, 100 and 1,000 nodes on one machine: probes, guards, and Airflow with one DAG a node."""
