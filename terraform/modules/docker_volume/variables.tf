variable "fleet" {
  description = "Name of the fleet. Every name at the engine begins with it."
  type        = string
}

variable "name" {
  description = "Name of the node whose data the volume holds, as in the fleet file."
  type        = string
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
