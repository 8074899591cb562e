"""Pipeline Health: the page in Airflow's navigation.

Read in this order: `health` says what the page says (pure), `sources` asks the outside, `hub` keeps the answers
fresh while somebody looks, `deeds` is what a person can do, `access` who may, and `app` puts it on the web.
"""
