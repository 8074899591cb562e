output "root" {
  description = "The node's root directory, the same on the engine's machine and in the node."
  value       = local.root
}
