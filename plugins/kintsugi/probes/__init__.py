"""Whether a node answers its own protocol, and what its peers report of it."""

from kintsugi.probes.protocols import Probe, probe_node, probe_ssh
from kintsugi.probes.stream import probe_stream

__all__ = ["Probe", "probe_node", "probe_ssh", "probe_stream"]
