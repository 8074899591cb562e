variable "fleet_file" {
  description = "The fleet file (YAML) that declares every node. Ansible and the DAGs read the same file."
  type        = string

  validation {
    condition     = startswith(var.fleet_file, "/") && can(yamldecode(file(var.fleet_file)).nodes)
    error_message = "fleet_file must be the absolute path of a YAML file with a list called nodes."
  }
}

variable "state_dir" {
  description = "Where the installation keeps nodes, volumes and quarantine ($KINTSUGI_STATE)."
  type        = string

  validation {
    condition     = startswith(var.state_dir, "/")
    error_message = "state_dir must be an absolute path."
  }
}

variable "cache_dir" {
  description = "The artifact cache ($KINTSUGI_CACHE), read-only to the nodes."
  type        = string

  validation {
    condition     = startswith(var.cache_dir, "/")
    error_message = "cache_dir must be an absolute path."
  }
}

variable "python" {
  description = "The Python interpreter that has Kintsugi's requirements installed."
  type        = string

  validation {
    condition     = startswith(var.python, "/")
    error_message = "python must be an absolute path, as in /srv/kintsugi/.venv/bin/python."
  }
}

variable "nodes" {
  description = "The nodes that are there, as JSON, in the form of the fleet file's list. By default those of the fleet file."
  type        = string
  default     = null
}
