terraform {
  required_version = ">= 1.6"

  required_providers {
    honeycombio = {
      source  = "honeycombio/honeycombio"
      version = "~> 0.45"
    }
  }
}

# The configuration key comes from the environment: HONEYCOMB_API_KEY.
provider "honeycombio" {
  api_url = var.api_url
}
