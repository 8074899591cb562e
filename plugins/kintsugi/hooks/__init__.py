"""The only places that call Terraform and Ansible."""
