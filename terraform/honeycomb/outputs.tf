output "board_url" {
  description = "The board in Honeycomb"
  value       = honeycombio_flexible_board.this.board_url
}

output "slo_id" {
  description = "The SLO of repairs"
  value       = honeycombio_slo.repaired_in_time.id
}
