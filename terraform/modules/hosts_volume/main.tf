# A volume is a directory of its host, and outlives the node that uses it. Destroying it moves the data into the host's
# quarantine. A destroy provisioner sees nothing but self, so all it needs is in the input; the key is read when it is used.
resource "terraform_data" "this" {
  input = {
    name = var.name
    path = "${var.launcher.state_dir}/volumes/${var.name}"
    host = var.host
    key  = "${var.launcher.state_dir}/secrets/ssh/host_login"
  }

  # A volume stays on its host: another one makes another volume.
  triggers_replace = [var.host.name]

  connection {
    type        = "ssh"
    host        = self.input.host.address
    port        = self.input.host.ssh_port
    user        = self.input.host.user
    host_key    = self.input.host.host_key
    private_key = file(self.input.key)
    agent       = false
    timeout     = "30s"
  }

  provisioner "remote-exec" {
    inline = ["${self.input.host.program} create-volume ${self.input.name}"]
  }

  provisioner "remote-exec" {
    when   = destroy
    inline = ["${self.input.host.program} destroy-volume ${self.input.name}"]
  }
}
