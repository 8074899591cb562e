"""The clients of what runs nodes: Terraform, Ansible, SSH, supervisord, Docker, Airflow's API, Maven."""
