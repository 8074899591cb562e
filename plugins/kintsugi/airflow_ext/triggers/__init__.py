"""Airflow triggers: they watch in the triggerer's event loop, so that waiting costs no worker slot."""
