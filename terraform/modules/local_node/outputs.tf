output "id" {
  description = "Identity of this node; a rebuilt node has another."
  value       = terraform_data.this.id
}

output "root" {
  description = "The node's root directory."
  value       = terraform_data.this.output.root
}
