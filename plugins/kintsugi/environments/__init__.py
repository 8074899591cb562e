"""Where nodes run: power and disks of the environments `local`, `docker` and `hosts`."""
