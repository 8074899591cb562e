"""The state of the control plane in Postgres, outside the fleet and outside Airflow's tables."""
