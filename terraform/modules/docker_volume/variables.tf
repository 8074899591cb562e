variable "fleet" {
  description = "Name of the fleet. Every name at the engine begins with it."
  type        = string
}

variable "name" {
  description = "Name of the node whose data the volume holds, as in the fleet file."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*-[0-9]+$", var.name))
    error_message = "A node's name has lower-case letters, digits and dashes and ends in a number, as in kafka-1."
  }
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
