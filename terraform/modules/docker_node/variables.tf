variable "fleet" {
  description = "Name of the fleet: of its network at the engine, and what every name there begins with."
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
  description = "Digest of the image that the node runs."
  type        = string
}

variable "volume" {
  description = "The node's volume: its name at the engine, and where its data lies."
  type        = object({ name = string, path = string })
}

variable "launcher" {
  description = "What runs the provisioners: Python interpreter, and the paths of the installation."
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
