"""What everything else builds on: errors, the fleet, settings, connections, incidents."""
