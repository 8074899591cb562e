"""Airflow sensors of Kintsugi; all of them wait in the triggerer."""
