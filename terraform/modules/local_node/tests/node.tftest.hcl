# Plans only: nothing is created, so no provisioner runs.

variables {
  node      = { name = "kafka-1", role = "kafka", address = "127.20.1.1", ssh_port = 2222 }
  volume_id = "volume-1"
  launcher = {
    python     = "/usr/bin/python3"
    modules    = "/srv/kintsugi/plugins"
    state_dir  = "/srv/state"
    cache_dir  = "/srv/cache"
    fleet_file = "/srv/fleet.yaml"
  }
}

run "a_destroy_finds_all_it_needs_in_the_input" {
  command = plan

  assert {
    condition     = terraform_data.this.input.node.name == "kafka-1" && terraform_data.this.input.launcher == var.launcher
    error_message = "The destroy provisioner sees nothing but self.input."
  }

  assert {
    condition     = terraform_data.this.input.root == "/srv/state/nodes/kafka-1"
    error_message = "The root lies in the state, under the node's name."
  }
}

run "another_volume_or_another_address_is_another_node" {
  command = plan

  assert {
    condition     = terraform_data.this.triggers_replace[1] == "volume-1" && terraform_data.this.triggers_replace[0].address == "127.20.1.1"
    error_message = "A changed input alone is an update in place, which makes nothing anew."
  }
}

run "another_zone_is_the_same_node" {
  command = plan

  variables {
    node = { name = "kafka-1", role = "kafka", address = "127.20.1.1", ssh_port = 2222, zone = "a" }
  }

  assert {
    condition     = !contains(keys(terraform_data.this.triggers_replace[0]), "zone") && !contains(keys(terraform_data.this.input.node), "zone")
    error_message = "A zone that is given to a running node must not replace it."
  }
}

run "an_address_outside_of_loopback_is_refused" {
  command = plan

  variables {
    node = { name = "kafka-1", role = "kafka", address = "10.0.0.1", ssh_port = 2222 }
  }

  expect_failures = [var.node]
}

run "a_name_that_a_path_could_hide_in_is_refused" {
  command = plan

  variables {
    node = { name = "../kafka-1", role = "kafka", address = "127.20.1.1", ssh_port = 2222 }
  }

  expect_failures = [var.node]
}

run "an_unknown_role_is_refused" {
  command = plan

  variables {
    node = { name = "kafka-1", role = "zookeeper", address = "127.20.1.1", ssh_port = 2222 }
  }

  expect_failures = [var.node]
}

run "a_port_that_needs_root_is_refused" {
  command = plan

  variables {
    node = { name = "kafka-1", role = "kafka", address = "127.20.1.1", ssh_port = 22 }
  }

  expect_failures = [var.node]
}
