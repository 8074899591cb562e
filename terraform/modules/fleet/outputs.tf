output "file" {
  description = "The content of the fleet file."
  value       = local.file
}

output "nodes" {
  description = "Every node by name: role, address, the port of its sshd (its own or the fleet's), and its zone and host (null without one)."
  value = {
    for node in local.nodes : node.name => {
      name     = node.name
      role     = node.role
      address  = try(node.address, local.file.hosts[node.host].address)
      ssh_port = try(node.ssh_port, local.file.ssh_port)
      zone     = try(node.zone, local.file.hosts[node.host].zone, null)
      host     = try(node.host, null)
    }
  }
}
