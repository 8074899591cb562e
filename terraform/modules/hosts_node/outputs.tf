output "id" {
  description = "Identity of this node. A rebuilt node has a new one."
  value       = terraform_data.this.id
}

output "root" {
  description = "The node's root directory."
  value       = terraform_data.this.output.root
}
