"""``make version-drill``: raise the version of Kafka by a release, and roll it back when a probe fails."""

from pathlib import Path

OTHER_VERSION = Path(__file__).parent
"""Declares, in ``artifacts/kafka``, the Kafka that the drill raises from: 4.3.1. No release of the product has it."""
