output "nodes" {
  description = "Every node by name: role, address, ssh_port, root and volume. The same shape in every environment."
  value = {
    for name, node in local.nodes : name => {
      name     = name
      role     = node.role
      address  = node.address
      ssh_port = node.ssh_port
      root     = module.node[name].root
      volume   = module.volume[name].path
    }
  }
}
