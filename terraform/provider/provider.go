//go:build provider

// Package provider pins the source of the docker environment's Terraform provider, for machines that reach Go's module
// proxy but not Terraform's registry: bin/docker-provider builds it from here.
package provider

import _ "github.com/terraform-providers/terraform-provider-docker"
