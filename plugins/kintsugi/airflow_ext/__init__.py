"""What Airflow loads: sensors, triggers, operators, and the two task groups."""
