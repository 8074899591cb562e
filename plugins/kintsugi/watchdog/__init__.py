"""The watchdog: a process of the control plane outside Airflow."""
