# Plans only: nothing is created, so no provisioner runs.

variables {
  state_dir = "/srv/kintsugi-test"
  cache_dir = "/srv/kintsugi-cache"
  python    = "/usr/bin/python3"
}

run "every_node_of_the_fleet_file_is_a_node_and_a_volume" {
  command = plan

  variables {
    fleet_file = abspath("../../fleet.yaml")
  }

  assert {
    condition     = length(module.node) == length(local.fleet.nodes) && length(module.volume) == length(local.fleet.nodes)
    error_message = "Each entry of the fleet file must become one node and one volume."
  }

  assert {
    condition     = local.nodes["kafka-2"].ssh_port == local.fleet.ssh_port && local.nodes["kafka-2"].role == "kafka"
    error_message = "A node takes its role from the file and the fleet's ssh_port unless it has one of its own."
  }

  assert {
    condition     = length(distinct([for node in local.nodes : node.address])) == length(local.nodes)
    error_message = "Every node has an address of its own."
  }

  assert {
    condition     = alltrue([for path in values(local.launcher) : startswith(path, "/")])
    error_message = "A destroy provisioner may run from another directory: its paths must be absolute."
  }
}

run "a_node_may_have_a_port_of_its_own" {
  command = plan

  variables {
    fleet_file = abspath("tests/odd_port.yaml")
  }

  assert {
    condition     = local.nodes["kafka-1"].ssh_port == 2200
    error_message = "ssh_port of an entry wins over the fleet's."
  }
}

run "a_node_may_have_a_zone" {
  command = plan

  variables {
    fleet_file = abspath("tests/zones.yaml")
  }

  assert {
    condition     = local.nodes["spark-worker-1"].zone == "a" && local.nodes["spark-worker-2"].zone == null
    error_message = "A node has the zone of its entry, and null without one."
  }
}

run "a_relative_state_directory_is_refused" {
  command = plan

  variables {
    fleet_file = abspath("../../fleet.yaml")
    state_dir  = "state"
  }

  expect_failures = [var.state_dir]
}

run "a_file_that_is_no_fleet_is_refused" {
  command = plan

  variables {
    fleet_file = abspath("tests/no_fleet.yaml")
  }

  expect_failures = [var.fleet_file]
}

run "the_nodes_that_are_there_may_differ_from_the_file" {
  command = plan

  variables {
    fleet_file = abspath("../../fleet.yaml")
    nodes = jsonencode([
      { name = "kafka-1", role = "kafka", address = "127.20.1.1", ssh_port = 2222, zone = null },
      { name = "kafka-4", role = "kafka", address = "127.20.1.4", ssh_port = 2222, zone = "a" },
    ])
  }

  assert {
    condition     = toset(keys(module.node)) == toset(["kafka-1", "kafka-4"]) && local.nodes["kafka-4"].zone == "a"
    error_message = "With a list of nodes, exactly these are made, whatever the file lists."
  }

  assert {
    condition     = local.nodes["kafka-1"] == { name = "kafka-1", role = "kafka", address = "127.20.1.1", ssh_port = 2222, zone = null }
    error_message = "A node is the same by the list and by the file, so that a change of lists replaces nothing."
  }
}
