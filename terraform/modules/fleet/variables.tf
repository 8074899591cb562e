variable "file" {
  description = "The fleet file (YAML) that declares every node, by its absolute path."
  type        = string
}

variable "nodes" {
  description = "The nodes that are there, as JSON, where they differ from the file's list: while nodes are added or removed."
  type        = string
  default     = null
}
