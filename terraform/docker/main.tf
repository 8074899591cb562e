module "fleet" {
  source = "../modules/fleet"

  file = var.fleet_file
}

locals {
  fleet = module.fleet.file
  nodes = module.fleet.nodes

  launcher = {
    python     = var.python
    state_dir  = var.state_dir
    cache_dir  = var.cache_dir
    fleet_file = var.fleet_file
  }
}

module "volume" {
  source   = "../modules/docker_volume"
  for_each = local.nodes

  fleet    = local.fleet.name
  name     = each.key
  launcher = local.launcher
}

module "node" {
  source   = "../modules/docker_node"
  for_each = local.nodes

  fleet    = local.fleet.name
  node     = each.value
  image    = var.image
  volume   = { name = module.volume[each.key].name, path = module.volume[each.key].path }
  launcher = local.launcher
}
