variable "fleet" {
  description = "Name of the fleet, which is the name of its network. Every name at the engine begins with it."
  type        = string
}

variable "node" {
  description = "One entry of the fleet file: name, role, address, and the port of the node's sshd."
  type = object({
    name     = string
    role     = string
    address  = string
    ssh_port = number
  })

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*-[0-9]+$", var.node.name))
    error_message = "A node's name has lower-case letters, digits and dashes and ends in a number, as in kafka-1."
  }

  validation {
    condition     = contains(["kafka", "cassandra", "spark_master", "spark_worker"], var.node.role)
    error_message = "A node's role is one of kafka, cassandra, spark_master, spark_worker."
  }
}

variable "image" {
  description = "Id (sha256:…) of the image that the node runs."
  type        = string
}

variable "volume" {
  description = "The node's volume: its name at the engine, and its directory."
  type        = object({ name = string, path = string })
}

variable "launcher" {
  description = "What the provisioners run with: Python interpreter and paths of the installation."
  type = object({
    python     = string
    state_dir  = string
    cache_dir  = string
    fleet_file = string
  })

  validation {
    condition     = alltrue([for path in values(var.launcher) : startswith(path, "/")])
    error_message = "Every path of the launcher must be absolute: Terraform runs it from its own directory."
  }
}
