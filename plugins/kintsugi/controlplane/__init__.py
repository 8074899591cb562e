"""The control plane: Postgres, S3, log collector and Airflow under one supervisord."""
