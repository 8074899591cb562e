"""Does a node answer its own protocol, and what do its peers say?"""

from kintsugi.probes.protocols import Probe, probe_node, probe_ssh
from kintsugi.probes.stream import probe_stream

__all__ = ["Probe", "probe_node", "probe_ssh", "probe_stream"]
