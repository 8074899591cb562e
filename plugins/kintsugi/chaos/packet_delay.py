"""Hold each packet of an NFQUEUE for some time, then let it pass: a slow network without ``netem``.

The kernel hands over the packets of one queue by netlink (nfnetlink_queue, see linux/netfilter/nfnetlink_queue.h); the
answer to each is a verdict. Only the packets' numbers are read, not their content. When this process ends, the kernel
lets all packets in the queue pass, because the rule says ``--queue-bypass``.

    python -m kintsugi.chaos.packet_delay <queue> <delay in seconds> <seconds until it ends>
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator

NETLINK_NETFILTER = 12
_REQUEST, _ACK = 1, 4
_SUBSYSTEM = 3 << 8
_PACKET, _VERDICT, _CONFIG = _SUBSYSTEM | 0, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_CFG_COMMAND, _CFG_PARAMETERS, _CFG_MAXIMUM, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_BIND, _COPY_META = 1, 1
_FAIL_OPEN, _GSO = 1, 4
_PACKET_HEADER, _VERDICT_HEADER = 1, 2
_NF_ACCEPT = 1
_QUEUE_LENGTH = 65_536
_BUFFER = 1 << 20
_ERROR = 2


def _encode_attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _encode_message(kind: int, queue: int, attributes: bytes, flags: int = _REQUEST) -> bytes:
    body = struct.pack(">BBH", socket.AF_UNSPEC, 0, queue) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def _decode_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each netlink message of a datagram."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]


def _packet_id(body: bytes) -> int | None:
    """The kernel's number of a packet; None for a message without one."""
    position = 4
    while position + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, position)
        if kind & 0x7FFF == _PACKET_HEADER:
            return int(struct.unpack_from(">I", body, position + 4)[0])
        position += (max(length, 4) + 3) & ~3
    return None


def bind_queue(queue: int) -> socket.socket:
    """Become the reader of ``queue``; raises OSError, for example when another process reads it."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * _BUFFER)
    netlink.bind((0, 0))
    command = _encode_attribute(_CFG_COMMAND, struct.pack(">BBH", _BIND, 0, socket.AF_INET))
    parameters = _encode_attribute(_CFG_PARAMETERS, struct.pack(">IB", 0, _COPY_META))
    length = _encode_attribute(_CFG_MAXIMUM, struct.pack(">I", _QUEUE_LENGTH))
    flags = struct.pack(">I", _FAIL_OPEN | _GSO)
    options = _encode_attribute(_CFG_MASK, flags) + _encode_attribute(_CFG_FLAGS, flags)
    for attributes in (command, parameters + length + options):
        netlink.send(_encode_message(_CONFIG, queue, attributes, _REQUEST | _ACK))
        for kind, body in _decode_messages(netlink.recv(_BUFFER)):
            if kind == _ERROR and (code := struct.unpack_from("=i", body)[0]):
                netlink.close()
                raise OSError(-code, f"queue {queue}: {os.strerror(-code)}")
    return netlink


def accept_packet(netlink: socket.socket, queue: int, packet: int) -> None:
    """Let one packet pass."""
    verdict = _encode_attribute(_VERDICT_HEADER, struct.pack(">II", _NF_ACCEPT, packet))
    netlink.send(_encode_message(_VERDICT, queue, verdict))


def delay_packets(netlink: socket.socket, queue: int, delay_s: float, until: float) -> int:
    """Hold each packet for ``delay_s`` until the monotonic time ``until``; returns how many there were."""
    waiting: deque[tuple[float, int]] = deque()
    count = 0
    while (now := time.monotonic()) < until:
        while waiting and waiting[0][0] <= now:
            accept_packet(netlink, queue, waiting.popleft()[1])
        next_s = min(waiting[0][0] if waiting else until, until) - now
        if not select.select([netlink], [], [], max(0.0, next_s))[0]:
            continue
        try:
            data = netlink.recv(_BUFFER)
        except OSError:  # ENOBUFS: the kernel let some packets pass, as FAIL_OPEN says
            continue
        arrived = time.monotonic()
        for kind, body in _decode_messages(data):
            if kind == _PACKET and (packet := _packet_id(body)) is not None:
                waiting.append((arrived + delay_s, packet))
                count += 1
    for _, packet in waiting:
        accept_packet(netlink, queue, packet)
    return count


def main(arguments: list[str]) -> int:
    """Delay the packets of one queue for a bounded time; prints ``ready`` when it reads the queue."""
    queue, delay_s, seconds = int(arguments[0]), float(arguments[1]), float(arguments[2])
    netlink = bind_queue(queue)
    print("ready", flush=True)
    delay_packets(netlink, queue, delay_s, time.monotonic() + seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
