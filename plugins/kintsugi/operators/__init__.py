"""Airflow's faces of what a recovery asks of people."""
