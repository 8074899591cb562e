# How the fleet file becomes nodes: the same in every environment.
locals {
  file = yamldecode(file(var.file))
}
