"""The clients of what runs servers: Terraform, Ansible, SSH, supervisord, Docker, Airflow's API, Maven."""
