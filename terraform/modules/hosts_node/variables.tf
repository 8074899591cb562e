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
    condition     = can(cidrhost("${var.node.address}/32", 0))
    error_message = "A node's address is an IPv4 address of its host, as in 10.0.0.11."
  }

  validation {
    condition     = var.node.ssh_port > 0 && var.node.ssh_port < 65536
    error_message = "ssh_port must lie in 1-65535, and differ from the port of the host's own sshd."
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

variable "host" {
  description = "The machine: its name, and how its own sshd is reached. volume_directory: where its disk is, null for state_dir. program: the words that begin a call of the host program, for its shell."
  type = object({
    name             = string
    address          = string
    host_key         = string
    user             = string
    ssh_port         = number
    volume_directory = optional(string)
    program          = string
  })

  validation {
    condition     = can(cidrhost("${var.host.address}/32", 0))
    error_message = "A host's address is an IPv4 address, as in 10.0.0.11."
  }

  validation {
    condition     = can(regex("^[a-z][a-z0-9_-]*$", var.host.user))
    error_message = "A host's user has lower-case letters, digits, dashes and underscores, as in root."
  }

  validation {
    condition     = var.host.volume_directory == null || can(regex("^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$", var.host.volume_directory))
    error_message = "A host's volume_directory is an absolute path of letters, digits and . _ -, as in /data/kintsugi."
  }
}
