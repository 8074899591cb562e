terraform {
  required_version = ">= 1.6"

  # The connection comes from PG_CONN_STR, never from a file or an argument. State lives outside the fleet, and its
  # lock is let go by Postgres when the owner's connection dies.
  backend "pg" {
    schema_name = "terraform"
  }
}
