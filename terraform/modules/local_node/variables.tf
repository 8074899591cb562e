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

  validation {
    condition     = can(cidrhost("${var.node.address}/32", 0)) && startswith(var.node.address, "127.")
    error_message = "A local node's address lies in 127.0.0.0/8, which Linux routes to loopback."
  }

  validation {
    condition     = var.node.ssh_port > 1023 && var.node.ssh_port < 65536
    error_message = "ssh_port must lie in 1024-65535, so that no node needs root."
  }
}

variable "volume_id" {
  description = "Identity of the node's volume. A node holds its volume open, so a new volume makes a new node."
  type        = string
}

variable "launcher" {
  description = "What the provisioners run with: Python interpreter, module path and paths of the installation."
  type = object({
    python     = string
    modules    = string
    state_dir  = string
    cache_dir  = string
    fleet_file = string
  })

  validation {
    condition     = alltrue([for path in values(var.launcher) : startswith(path, "/")])
    error_message = "Every path of the launcher must be absolute: Terraform runs it from its own directory."
  }
}
