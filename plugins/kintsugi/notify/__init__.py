"""Messages to people: when to page, the digest, the channels, and the heartbeats to an outside service."""
