output "id" {
  description = "Identity of this volume. A replaced volume has a new one."
  value       = terraform_data.this.id
}

output "path" {
  description = "The volume's directory."
  value       = terraform_data.this.output.path
}
