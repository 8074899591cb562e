# A node is a container with an address and a root of its own. The engine makes it without starting it: the provisioner
# writes what it boots from first. Destroying it ends everything it runs and moves its root into the quarantine.
# A destroy provisioner sees nothing but self, so all it needs is in the labels: kintsugi.node is $KINTSUGI_NODE there.
locals {
  root = "${var.launcher.state_dir}/nodes/${var.node.name}"
  bin  = dirname(var.launcher.python)
}

resource "docker_container" "this" {
  name     = "${var.fleet}-${var.node.name}"
  hostname = var.node.name
  image    = var.image
  # The old name of the module: another command would replace every container of a fleet that runs, and the image that
  # its nodes are made of may be an older one (kintsugi/__init__.py).
  command = [var.launcher.python, "-m", "kintsugi.local.node_init", var.node.name]
  # The image's own would be read back, and look like a change.
  working_dir = "/"

  # It is started by its provisioner, and what is dead stays as it is until somebody decides.
  start    = false
  must_run = false
  restart  = "no"

  env = [
    "PATH=${local.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=${local.root}",
    "TMPDIR=${local.root}/tmp",
    "PYTHONDONTWRITEBYTECODE=1",
    "KINTSUGI_NODE=${var.node.name}",
    "KINTSUGI_STATE=${var.launcher.state_dir}",
    "KINTSUGI_CACHE=${var.launcher.cache_dir}",
    "KINTSUGI_FLEET=${var.launcher.fleet_file}",
    "KINTSUGI_ISOLATION=container",
    "KINTSUGI_INIT_OF=${local.root}",
  ]

  networks_advanced {
    name         = var.fleet
    ipv4_address = var.node.address
  }

  volumes {
    host_path      = local.root
    container_path = local.root
  }

  volumes {
    volume_name    = var.volume.name
    container_path = var.volume.path
  }

  dynamic "labels" {
    for_each = {
      "kintsugi.node"     = var.node.name
      "kintsugi.role"     = var.node.role
      "kintsugi.ssh_port" = var.node.ssh_port
      "kintsugi.python"   = var.launcher.python
      "kintsugi.state"    = var.launcher.state_dir
      "kintsugi.cache"    = var.launcher.cache_dir
      "kintsugi.fleet"    = var.launcher.fleet_file
    }
    content {
      label = labels.key
      value = labels.value
    }
  }

  # `interpreter` followed by `command` is one argument list: no shell reads it.
  provisioner "local-exec" {
    interpreter = [var.launcher.python, "-m", "kintsugi.environments.docker.node"]
    command     = "create-node"
    environment = { for entry in self.labels : upper(replace(entry.label, ".", "_")) => entry.value }
  }

  provisioner "local-exec" {
    when        = destroy
    interpreter = [one([for entry in self.labels : entry.value if entry.label == "kintsugi.python"]), "-m", "kintsugi.environments.docker.node"]
    command     = "destroy-node"
    environment = { for entry in self.labels : upper(replace(entry.label, ".", "_")) => entry.value }
  }
}
