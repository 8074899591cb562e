locals {
  incident = { column = "name", op = "=", value = "incident" }
  day      = 86400

  panels = {
    nodes = {
      name        = "Nodes that answer"
      description = "1 when the node answers its own protocol"
      dataset     = var.metrics
      time_range  = 7200
      breakdowns  = ["kintsugi.node"]
      calculation = [{ op = "MIN", column = "kintsugi.node.up" }]
      filter      = []
      style       = "graph"
    }
    flow = {
      name        = "The flow: rates, lag, freshness"
      description = "Messages a second into Kafka and into Cassandra, and what waits between them"
      dataset     = var.metrics
      time_range  = 7200
      breakdowns  = []
      calculation = [
        { op = "AVG", column = "kintsugi.flow.produced" },
        { op = "AVG", column = "kintsugi.flow.stored" },
        { op = "MAX", column = "kintsugi.flow.lag" },
        { op = "MAX", column = "kintsugi.flow.freshness" },
      ]
      filter = []
      style  = "graph"
    }
    repairs = {
      name        = "Repairs by role and outcome"
      description = "Seconds from the failure until the node serves again"
      dataset     = var.spans
      time_range  = 7 * local.day
      breakdowns  = ["kintsugi.role", "kintsugi.incident.outcome"]
      calculation = [
        { op = "COUNT", column = null },
        { op = "P50", column = "kintsugi.repair_s" },
        { op = "MAX", column = "kintsugi.repair_s" },
      ]
      filter = [local.incident]
      style  = "combo"
    }
    phases = {
      name        = "Where the time of a repair goes"
      description = "Duration of each phase: detect, confirm, archive, provision, configure, rejoin, verify"
      dataset     = var.spans
      time_range  = 7 * local.day
      breakdowns  = ["kintsugi.phase"]
      calculation = [{ op = "P50", column = "duration_ms" }, { op = "P95", column = "duration_ms" }]
      filter      = [{ column = "kintsugi.phase", op = "exists", value = null }]
      style       = "combo"
    }
    ingest = {
      name        = "Ingested files"
      description = "Rows read, rejected and produced, by state of the file"
      dataset     = var.spans
      time_range  = local.day
      breakdowns  = ["kintsugi.ingest.state"]
      calculation = [
        { op = "SUM", column = "kintsugi.ingest.read" },
        { op = "SUM", column = "kintsugi.ingest.rejected" },
        { op = "SUM", column = "kintsugi.ingest.produced" },
      ]
      filter = [{ column = "kintsugi.ingest.state", op = "exists", value = null }]
      style  = "combo"
    }
  }
}

data "honeycombio_query_specification" "panel" {
  for_each = local.panels

  time_range = each.value.time_range
  breakdowns = each.value.breakdowns

  dynamic "calculation" {
    for_each = each.value.calculation
    content {
      op     = calculation.value.op
      column = calculation.value.column
    }
  }

  dynamic "filter" {
    for_each = each.value.filter
    content {
      column = filter.value.column
      op     = filter.value.op
      value  = filter.value.value
    }
  }
}

resource "honeycombio_query" "panel" {
  for_each = local.panels

  dataset    = each.value.dataset
  query_json = data.honeycombio_query_specification.panel[each.key].json
}

resource "honeycombio_query_annotation" "panel" {
  for_each = local.panels

  dataset     = each.value.dataset
  query_id    = honeycombio_query.panel[each.key].id
  name        = each.value.name
  description = each.value.description
}

resource "honeycombio_flexible_board" "this" {
  name        = "Kintsugi"
  description = "Fleet, flow and repairs of the options pipeline"

  panel {
    type = "slo"

    slo_panel {
      slo_id = honeycombio_slo.repaired_in_time.id
    }
  }

  dynamic "panel" {
    for_each = local.panels
    content {
      type = "query"

      query_panel {
        query_id            = honeycombio_query.panel[panel.key].id
        query_annotation_id = honeycombio_query_annotation.panel[panel.key].id
        query_style         = panel.value.style
      }
    }
  }
}
