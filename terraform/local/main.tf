module "fleet" {
  source = "../modules/fleet"

  file  = var.fleet_file
  nodes = var.nodes
}

locals {
  fleet = module.fleet.file
  nodes = module.fleet.nodes

  launcher = {
    python     = var.python
    modules    = abspath("${path.module}/../../plugins")
    state_dir  = var.state_dir
    cache_dir  = var.cache_dir
    fleet_file = var.fleet_file
  }
}

module "volume" {
  source   = "../modules/local_volume"
  for_each = local.nodes

  name     = each.key
  launcher = local.launcher
}

module "node" {
  source   = "../modules/local_node"
  for_each = local.nodes

  node      = each.value
  volume_id = module.volume[each.key].id
  launcher  = local.launcher
}
