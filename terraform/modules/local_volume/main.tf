# A volume outlives the node that uses it. Destroying it moves the data into the quarantine.
# A destroy provisioner sees nothing but self, so all it needs is in the input.
resource "terraform_data" "this" {
  input = {
    name     = var.name
    path     = "${var.launcher.state_dir}/volumes/${var.name}"
    launcher = var.launcher
  }

  # `interpreter` followed by `command` is one argument list: no shell reads it.
  provisioner "local-exec" {
    interpreter = [self.input.launcher.python, "-m", "kintsugi.environments.local.node"]
    command     = "create-volume"
    environment = {
      KINTSUGI_NODE  = self.input.name
      KINTSUGI_STATE = self.input.launcher.state_dir
      KINTSUGI_CACHE = self.input.launcher.cache_dir
      KINTSUGI_FLEET = self.input.launcher.fleet_file
      PYTHONPATH     = self.input.launcher.modules
    }
  }

  provisioner "local-exec" {
    when        = destroy
    interpreter = [self.input.launcher.python, "-m", "kintsugi.environments.local.node"]
    command     = "destroy-volume"
    environment = {
      KINTSUGI_NODE  = self.input.name
      KINTSUGI_STATE = self.input.launcher.state_dir
      KINTSUGI_CACHE = self.input.launcher.cache_dir
      KINTSUGI_FLEET = self.input.launcher.fleet_file
      PYTHONPATH     = self.input.launcher.modules
    }
  }
}
