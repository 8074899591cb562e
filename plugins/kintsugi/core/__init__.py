"""What everything else stands on: errors, the fleet, settings, connections, incidents."""
