# A node is a process tree with an address and a root of its own. Destroying it kills its init, and with it
# everything it runs, and moves its root into the quarantine.
# A destroy provisioner sees nothing but self, so all it needs is in the input.
resource "terraform_data" "this" {
  input = {
    node     = var.node
    root     = "${var.launcher.state_dir}/nodes/${var.node.name}"
    launcher = var.launcher
  }

  # A changed input alone would be an update in place, which runs no provisioner.
  triggers_replace = [var.node, var.volume_id]

  # `interpreter` followed by `command` is one argument list: no shell reads it.
  provisioner "local-exec" {
    interpreter = [self.input.launcher.python, "-m", "kintsugi.environments.local.node"]
    command     = "create-node"
    environment = {
      KINTSUGI_NODE  = self.input.node.name
      KINTSUGI_STATE = self.input.launcher.state_dir
      KINTSUGI_CACHE = self.input.launcher.cache_dir
      KINTSUGI_FLEET = self.input.launcher.fleet_file
      PYTHONPATH     = self.input.launcher.modules
    }
  }

  provisioner "local-exec" {
    when        = destroy
    interpreter = [self.input.launcher.python, "-m", "kintsugi.environments.local.node"]
    command     = "destroy-node"
    environment = {
      KINTSUGI_NODE  = self.input.node.name
      KINTSUGI_STATE = self.input.launcher.state_dir
      KINTSUGI_CACHE = self.input.launcher.cache_dir
      KINTSUGI_FLEET = self.input.launcher.fleet_file
      PYTHONPATH     = self.input.launcher.modules
    }
  }
}
