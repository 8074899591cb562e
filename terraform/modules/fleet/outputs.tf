output "file" {
  description = "The content of the fleet file."
  value       = local.file
}

output "nodes" {
  description = "Every node by name: role, address, the port of its sshd (its own or the fleet's), and its zone (null without one)."
  value = {
    for node in local.nodes : node.name => {
      name     = node.name
      role     = node.role
      address  = try(node.address, local.file.hosts[node.host].address)
      ssh_port = try(node.ssh_port, local.file.ssh_port)
      zone     = try(node.zone, local.file.hosts[node.host].zone, null)
    }
  }
}

output "host_of" {
  description = "The host of every node by name, which the environment hosts needs; null in the others."
  value       = { for node in local.nodes : node.name => try(node.host, null) }
}
