output "id" {
  description = "Identity of this volume; a replaced volume has another."
  value       = terraform_data.this.id
}

output "path" {
  description = "Where the node finds the volume."
  value       = terraform_data.this.output.path
}
