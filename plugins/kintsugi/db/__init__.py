"""What is kept in Postgres, outside the fleet and outside Airflow's tables."""
