output "name" {
  description = "What the engine calls the volume."
  value       = docker_volume.this.name
}

output "path" {
  description = "Where the data lies, on the engine's machine and in the node alike."
  value       = local.path
}
