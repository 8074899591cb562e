variable "api_url" {
  description = "Honeycomb's API: https://api.honeycomb.io, or https://api.eu1.honeycomb.io for the EU"
  type        = string
  default     = "https://api.honeycomb.io"

  validation {
    condition     = startswith(var.api_url, "https://")
    error_message = "The API is reached by https only."
  }
}

variable "spans" {
  description = "Dataset of the traces: Honeycomb names it after service.name"
  type        = string
  default     = "kintsugi"
}

variable "metrics" {
  description = "Dataset of the metrics: as the header x-honeycomb-dataset says"
  type        = string
  default     = "kintsugi-metrics"
}

variable "webhook_url" {
  description = "Where Honeycomb reaches Airflow's webhook, as in https://airflow.example.org/honeycomb/trigger; empty: alerts start no recovery"
  type        = string
  default     = ""

  validation {
    condition     = var.webhook_url == "" || endswith(var.webhook_url, "/honeycomb/trigger")
    error_message = "The webhook of Airflow's api-server ends in /honeycomb/trigger."
  }
}

variable "webhook_secret" {
  description = "Shared secret: the password of the Airflow connection kintsugi_honeycomb_webhook"
  type        = string
  default     = ""
  sensitive   = true
}

variable "email" {
  description = "Who is told when nothing is measured any more or the SLO's budget burns; empty: nobody"
  type        = string
  default     = ""
}

variable "repair_within_s" {
  description = "The SLO's bound: seconds from the failure until the node serves again"
  type        = number
  default     = 60

  validation {
    condition     = var.repair_within_s > 0
    error_message = "A repair takes more than 0 s."
  }
}

variable "repair_target_percent" {
  description = "The SLO's target: the share of incidents that heal within the bound, over 30 days"
  type        = number
  default     = 95

  validation {
    condition     = var.repair_target_percent > 0 && var.repair_target_percent < 100
    error_message = "The target lies between 0 and 100 percent, both excluded."
  }
}

variable "runbooks" {
  description = "Where the runbooks are published: a URL, or their path in the repository"
  type        = string
  default     = "docs/runbooks"
}
