"""What Airflow loads: sensors, triggers, operators, the two task groups, and lazily built web applications."""
