# A node is a process tree of a host, with a root and an sshd of its own. Destroying it kills its init, and with it
# everything it runs, and moves its root into the host's quarantine.
# A destroy provisioner sees nothing but self, so all it needs is in the input; the key is read when it is used.
locals {
  environment = {
    KINTSUGI_NODE  = var.node.name
    KINTSUGI_STATE = var.launcher.state_dir
    KINTSUGI_CACHE = var.launcher.cache_dir
    KINTSUGI_FLEET = var.launcher.fleet_file
    PYTHONPATH     = var.launcher.modules
  }
}

resource "terraform_data" "this" {
  input = {
    node     = var.node
    root     = "${var.launcher.state_dir}/nodes/${var.node.name}"
    launcher = var.launcher
    host     = var.host
    key      = "${var.launcher.state_dir}/secrets/ssh/host_login"
    bundle   = "${var.launcher.state_dir}/control/hosts/${var.node.name}.tar"
  }

  # A changed input alone would be an update in place, which runs no provisioner.
  triggers_replace = [var.node, var.host.name, var.volume_id]

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

  # The files that the node boots from. Their keys are signed here: the authority never leaves the control plane.
  # `interpreter` followed by `command` is one argument list: no shell reads it.
  provisioner "local-exec" {
    interpreter = [self.input.launcher.python, "-m", "kintsugi.environments.hosts.node"]
    command     = "write-bundle"
    environment = local.environment
  }

  # Nobody else of the host can have made this directory before: the id is new, and mkdir takes no existing one.
  provisioner "remote-exec" {
    inline = ["mkdir -m 0700 /tmp/kintsugi-${self.id}"]
  }

  provisioner "file" {
    source      = self.input.bundle
    destination = "/tmp/kintsugi-${self.id}/bundle.tar"
  }

  provisioner "remote-exec" {
    inline = [
      "trap 'rm -rf /tmp/kintsugi-${self.id}' EXIT",
      join(" ", [
        "${self.input.host.program} create-node ${self.input.node.name}",
        "--role ${self.input.node.role} --address ${self.input.node.address} --port ${self.input.node.ssh_port}",
        "--bundle /tmp/kintsugi-${self.id}/bundle.tar",
      ]),
    ]
  }

  provisioner "local-exec" {
    interpreter = [self.input.launcher.python, "-m", "kintsugi.environments.hosts.node"]
    command     = "remove-bundle"
    environment = local.environment
  }

  provisioner "remote-exec" {
    when   = destroy
    inline = ["${self.input.host.program} destroy-node ${self.input.node.name}"]
  }
}
