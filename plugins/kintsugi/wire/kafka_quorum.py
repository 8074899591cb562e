"""Kafka's metadata quorum: its leader, and how a voter is removed or added.

The questions go to the controller listener of the leader. kafka-python has no AddRaftVoter, RemoveRaftVoter and
UnregisterBroker, so their messages (version 0; KIP-853, KIP-631) are described here by the JSON files beside this
module, in the form of Kafka's own message definitions. Kafka's command line tool would cost a start of a JVM for each
call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import client_context
from kintsugi.core.errors import StepFailed
from kintsugi.wire.exchange import Connection, ProtocolMismatch, ask_endpoint
from kintsugi.wire.kafka import Quorum, ReplicaState, exchange_messages, read_quorum

_LISTENER = "CONTROLLER"

NONE, NOT_LEADER, REQUEST_TIMED_OUT, DUPLICATE_VOTER, VOTER_NOT_FOUND = 0, 6, 7, 126, 127
BROKER_ID_NOT_REGISTERED = 102

T = TypeVar("T")


class QuorumError(StepFailed):
    """The quorum didn't do as asked; ``code`` is Kafka's error code, None when no valid answer came."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


def describe_quorum(address: str, timeout_s: float = 5.0) -> Quorum:
    """Ask the controller at ``address`` (``host:port``), which must be the leader; raises QuorumError."""
    partition = _ask_controller(address, read_quorum, timeout_s)
    if partition.error_code != NONE:
        raise QuorumError(
            f"the controller at {address} can't describe the quorum (Kafka error {partition.error_code})",
            partition.error_code,
        )
    return Quorum.from_partition(partition)


def find_leader(addresses: Iterable[str], timeout_s: float = 5.0) -> tuple[str, Quorum]:
    """Return which of these controllers leads, and the quorum as it sees it. Raises QuorumError if none does."""
    errors = []
    for address in addresses:
        try:
            return address, describe_quorum(address, timeout_s)
        except QuorumError as error:
            errors.append(str(error))
    raise QuorumError(f"no controller leads the quorum now: {'; '.join(errors)}")


def remove_voter(leader: str, cluster_id: str, replica: ReplicaState, timeout_s: float = 10.0) -> None:
    """Remove a voter; one that isn't there is no error. Raises QuorumError."""
    remove, response_type = _own_messages("RemoveRaftVoter")
    request = remove(
        version=0, cluster_id=cluster_id, voter_id=replica.node_id, voter_directory_id=replica.directory
    )
    _send_change(leader, request, response_type, harmless=(VOTER_NOT_FOUND,), timeout_s=timeout_s)


def add_voter(
    leader: str, cluster_id: str, replica: ReplicaState, endpoint: str, timeout_s: float = 10.0
) -> None:
    """Make an observer a voter, with its controller at ``endpoint`` (``host:port``); one that is there is no error.

    Raises QuorumError, with REQUEST_TIMED_OUT when the observer hasn't caught up.
    """
    host, _, port = endpoint.rpartition(":")
    add, response_type = _own_messages("AddRaftVoter")
    request = add(
        version=0,
        cluster_id=cluster_id,
        timeout_ms=int(timeout_s * 1000),
        voter_id=replica.node_id,
        voter_directory_id=replica.directory,
        listeners=[add.Listener(name=_LISTENER, host=host, port=int(port))],
    )
    _send_change(leader, request, response_type, harmless=(DUPLICATE_VOTER,), timeout_s=timeout_s + 2)


def unregister_broker(leader: str, broker_id: int, timeout_s: float = 10.0) -> None:
    """Let the cluster forget a broker that has ended for good; one that it doesn't know is no error.

    Raises QuorumError.
    """
    unregister, response_type = _own_messages("UnregisterBroker")
    request = unregister(version=0, broker_id=broker_id)
    _send_change(leader, request, response_type, harmless=(BROKER_ID_NOT_REGISTERED,), timeout_s=timeout_s)


def _send_change(
    leader: str, request: Any, response_type: Any, harmless: Sequence[int], timeout_s: float
) -> None:
    response = _ask_controller(
        leader, lambda connection: exchange_messages(connection, request, response_type), timeout_s
    )
    if response.error_code != NONE and response.error_code not in harmless:
        reason = response.error_message or "no reason given"
        raise QuorumError(
            f"the leader at {leader} refused: {reason} (Kafka error {response.error_code})",
            response.error_code,
        )


def _ask_controller(address: str, question: Callable[[Connection], Awaitable[T]], timeout_s: float) -> T:
    """Put ``question`` to the controller at ``address`` (``host:port``); raises QuorumError without a valid answer."""
    host, _, port = address.rpartition(":")
    tls = client_context(Principal.RECOVERY)

    async def ask_in_time() -> T:
        async with asyncio.timeout(timeout_s):
            return await ask_endpoint(host, int(port), question, tls=tls)

    try:
        return asyncio.run(ask_in_time())
    except ProtocolMismatch as error:
        raise QuorumError(f"the controller at {address} answers, but {error}; is it Kafka 4?") from error
    except (OSError, EOFError) as error:
        raise QuorumError(
            f"the controller at {address} doesn't answer: {str(error) or type(error).__name__}"
        ) from error


@cache
def _own_messages(name: str) -> tuple[Any, Any]:
    """Return the classes of the request and of the response called ``name``, which the JSON files describe."""
    from kafka.protocol.api_message import ApiMessage

    request, response = (
        type(ApiMessage)(f"{name}{kind}", (ApiMessage,), {"__slots__": ()}, load_json=__package__)
        for kind in ("Request", "Response")
    )
    return request, response
