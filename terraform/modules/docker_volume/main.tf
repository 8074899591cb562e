# A volume outlives the node that uses it. It is a directory of the state under an engine's volume, so that destroying
# it moves the data into the quarantine instead of deleting it.
# A destroy provisioner sees nothing but self, so all it needs is in the labels: kintsugi.node is $KINTSUGI_NODE there.
locals {
  path = "${var.launcher.state_dir}/volumes/${var.name}"
}

resource "docker_volume" "this" {
  name        = "${var.fleet}-${var.name}"
  driver      = "local"
  driver_opts = { type = "none", o = "bind", device = local.path }

  dynamic "labels" {
    for_each = {
      "kintsugi.node"   = var.name
      "kintsugi.python" = var.launcher.python
      "kintsugi.state"  = var.launcher.state_dir
      "kintsugi.cache"  = var.launcher.cache_dir
      "kintsugi.fleet"  = var.launcher.fleet_file
    }
    content {
      label = labels.key
      value = labels.value
    }
  }

  # `interpreter` followed by `command` is one argument list: no shell reads it.
  provisioner "local-exec" {
    interpreter = [var.launcher.python, "-m", "kintsugi.environments.docker.node"]
    command     = "create-volume"
    environment = { for entry in self.labels : upper(replace(entry.label, ".", "_")) => entry.value }
  }

  provisioner "local-exec" {
    when        = destroy
    interpreter = [one([for entry in self.labels : entry.value if entry.label == "kintsugi.python"]), "-m", "kintsugi.environments.docker.node"]
    command     = "destroy-volume"
    environment = { for entry in self.labels : upper(replace(entry.label, ".", "_")) => entry.value }
  }
}
