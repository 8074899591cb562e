output "name" {
  description = "The volume's name at the engine."
  value       = docker_volume.this.name
}

output "path" {
  description = "The volume's directory, the same on the engine's machine and in the node."
  value       = local.path
}
