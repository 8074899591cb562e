"""Airflow operators of Kintsugi."""
