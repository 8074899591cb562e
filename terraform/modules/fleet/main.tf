# How the fleet file becomes nodes: the same in every environment.
locals {
  file = yamldecode(file(var.file))
  # Both as text first: Terraform takes lists of different lengths for different types.
  nodes = jsondecode(var.nodes == null ? jsonencode(local.file.nodes) : var.nodes)
}
