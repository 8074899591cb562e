# A second pair of eyes: Honeycomb notices a dead node by its metrics, and has it recovered through the same
# confirm and guard steps as any other recovery. The watch in Airflow is faster; this one stands elsewhere.

data "honeycombio_query_specification" "node_up" {
  time_range = 120
  breakdowns = ["kintsugi.node"]

  calculation {
    op     = "MAX"
    column = "kintsugi.node.up"
  }
}

resource "honeycombio_query" "node_up" {
  dataset    = var.metrics
  query_json = data.honeycombio_query_specification.node_up.json
}

resource "honeycombio_trigger" "node_down" {
  name        = "A node does not answer"
  description = "No probe of two minutes was answered. Starts recover_node in Airflow for the node of each group. Runbook: ${var.runbooks}/honeycomb-node-down.md"
  dataset     = var.metrics
  query_id    = honeycombio_query.node_up.id
  frequency   = 60
  alert_type  = "on_change"

  threshold {
    op    = "<"
    value = 1
  }

  dynamic "recipient" {
    for_each = local.recovery
    content {
      id = recipient.value
    }
  }
}

data "honeycombio_query_specification" "freshness" {
  time_range = 600

  calculation {
    op     = "MIN"
    column = "kintsugi.flow.freshness"
  }
}

resource "honeycombio_query" "freshness" {
  dataset    = var.metrics
  query_json = data.honeycombio_query_specification.freshness.json
}

resource "honeycombio_trigger" "stale" {
  name        = "Trades are not stored"
  description = "For ten minutes, the oldest trade that isn't stored was more than two minutes old. Runbook: ${var.runbooks}/honeycomb-trades-stale.md"
  dataset     = var.metrics
  query_id    = honeycombio_query.freshness.id
  frequency   = 300

  threshold {
    op    = ">"
    value = 120
  }

  dynamic "recipient" {
    for_each = local.people
    content {
      id = recipient.value
    }
  }
}

data "honeycombio_query_specification" "reports" {
  time_range = 600

  calculation {
    op = "COUNT"
  }

  filter {
    column = "kintsugi.node.up"
    op     = "exists"
  }
}

resource "honeycombio_query" "reports" {
  dataset    = var.metrics
  query_json = data.honeycombio_query_specification.reports.json
}

resource "honeycombio_trigger" "silent" {
  name        = "Nothing is measured any more"
  description = "No node was reported for ten minutes: the control plane is down, or cut off. Runbook: ${var.runbooks}/honeycomb-silent.md"
  dataset     = var.metrics
  query_id    = honeycombio_query.reports.id
  frequency   = 300

  threshold {
    op    = "<"
    value = 1
  }

  dynamic "recipient" {
    for_each = local.people
    content {
      id = recipient.value
    }
  }
}
