variable "file" {
  description = "The fleet file (YAML) that declares every node, by its absolute path."
  type        = string
}
