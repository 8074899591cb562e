output "root" {
  description = "The node's root directory, on the engine's machine and in the node alike."
  value       = local.root
}
