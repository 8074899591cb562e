# Who hears of alerts: Airflow's webhook, which starts a recovery, and people by mail.

resource "honeycombio_webhook_recipient" "airflow" {
  count = var.webhook_url == "" ? 0 : 1

  name   = "Kintsugi: recover the node"
  url    = var.webhook_url
  secret = var.webhook_secret

  lifecycle {
    precondition {
      condition     = length(var.webhook_secret) >= 16
      error_message = "A webhook that rebuilds nodes needs a secret of 16 characters at least."
    }
  }
}

resource "honeycombio_email_recipient" "people" {
  count = var.email == "" ? 0 : 1

  address = var.email
}

locals {
  recovery = honeycombio_webhook_recipient.airflow[*].id
  people   = honeycombio_email_recipient.people[*].id
}

# Colours of the markers that the watchdog sets at begin and end of incidents and of chaos.

resource "honeycombio_marker_setting" "this" {
  for_each = {
    kintsugi-incident = "#DF4661"
    kintsugi-chaos    = "#7C3AED"
  }

  type  = each.key
  color = each.value
}

# The SLO: a node that is lost serves again within the bound.

resource "honeycombio_derived_column" "repaired_in_time" {
  alias       = "sli.repaired_in_time"
  description = "Whether an incident healed within ${var.repair_within_s} s; null for what was none"
  dataset     = var.spans

  expression = <<-EOT
    IF(
      AND(
        EQUALS($name, "incident"),
        IN($kintsugi.incident.outcome, "healed", "failed", "refused")
      ),
      AND(
        EQUALS($kintsugi.incident.outcome, "healed"),
        LTE($kintsugi.repair_s, ${var.repair_within_s})
      )
    )
  EOT

  lifecycle {
    create_before_destroy = true
  }
}

resource "honeycombio_slo" "repaired_in_time" {
  name              = "A lost node serves again within ${var.repair_within_s} s"
  description       = "From the failure (or the first failed probe) to the node serving again, verified. Runbook: ${var.runbooks}/honeycomb-repair-slo.md"
  dataset           = var.spans
  sli               = honeycombio_derived_column.repaired_in_time.alias
  target_percentage = var.repair_target_percent
  time_period       = 30
}

resource "honeycombio_burn_alert" "repaired_in_time" {
  count = length(local.people)

  dataset            = var.spans
  slo_id             = honeycombio_slo.repaired_in_time.id
  alert_type         = "exhaustion_time"
  exhaustion_minutes = 24 * 60

  recipient {
    id = local.people[0]
  }
}
