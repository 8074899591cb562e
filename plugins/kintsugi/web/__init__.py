"""Pipeline Health: the page in Airflow's navigation.

Read in this order: `health` makes the texts of the page (pure), `sources` reads the systems outside, `polling_cache`
refreshes the readings while somebody looks, `actions` are what a person can do, `access` is who may do it, and `app`
defines the routes.
"""
