variable "name" {
  description = "Name of the node that the volume belongs to, as in the fleet file."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*-[0-9]+$", var.name))
    error_message = "A node's name has lower-case letters, digits and dashes and ends in a number, as in kafka-1."
  }
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
