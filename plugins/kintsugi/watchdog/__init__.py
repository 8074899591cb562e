"""The watchdog: a process of the control plane that runs outside Airflow."""
