module "fleet" {
  source = "../modules/fleet"

  file  = var.fleet_file
  nodes = var.nodes
}

locals {
  fleet = module.fleet.file
  nodes = module.fleet.nodes

  hosts = {
    for name, host in local.fleet.hosts : name => {
      name             = name
      address          = host.address
      host_key         = host.host_key
      user             = try(host.user, "root")
      ssh_port         = try(host.ssh_port, 22)
      volume_directory = try(host.volume_directory, null)
      program = join(" ", concat(
        try(host.user, "root") == "root" ? [] : ["sudo", "-n"],
        [local.program],
        try(host.volume_directory, null) == null ? [] : ["--volume-directory", "'${host.volume_directory}'"],
      ))
    }
  }

  # With the paths of the launcher, which are the same on every machine. The shell of the host reads these words, so each
  # is quoted; no path has a quotation mark (kintsugi.core.settings).
  program = join(" ", concat(
    ["env"],
    [for name, value in {
      PYTHONPATH              = local.launcher.modules
      PYTHONDONTWRITEBYTECODE = "1"
      KINTSUGI_STATE          = local.launcher.state_dir
      KINTSUGI_CACHE          = local.launcher.cache_dir
      KINTSUGI_FLEET          = local.launcher.fleet_file
    } : "'${name}=${value}'"],
    ["'${local.launcher.python}'", "-m", "kintsugi.environments.hosts.host_program"],
  ))

  launcher = {
    python     = var.python
    modules    = abspath("${path.module}/../../plugins")
    state_dir  = var.state_dir
    cache_dir  = var.cache_dir
    fleet_file = var.fleet_file
  }
}

module "volume" {
  source   = "../modules/hosts_volume"
  for_each = local.nodes

  name     = each.key
  host     = local.hosts[module.fleet.host_of[each.key]]
  launcher = local.launcher
}

module "node" {
  source   = "../modules/hosts_node"
  for_each = local.nodes

  node      = each.value
  host      = local.hosts[module.fleet.host_of[each.key]]
  volume_id = module.volume[each.key].id
  launcher  = local.launcher
}
