"""Rotation of secrets: certificates and their authority, logins of Cassandra, its JMX password, keys of S3, SSH.

1. `renew_secrets` makes new ones beside the old ones, and both are valid. Clients use the new ones at their next
   connection.
2. `hand_out_secrets` gives them to Spark's nodes, which need no restart: the stream reads its login at each connection.
3. A roll-out of the release that runs brings them to the other nodes: the files of each differ, so each is configured
   and restarted in turn, while the steady state holds. Every connection to Cassandra is made again by that.
4. A backup is made. From then on a control plane that is restored knows the new secrets, too.
5. `certify_hosts` lets the next authority of SSH sign the host key of each node, one after another.
6. `finish_rotation` drops the old logins, the old keys of S3 and the old authority of SSH, once nobody uses them. No
   node has a key of S3. Clients of the control plane take the new one at their next use.

The user key of SSH is replaced over two rotations: nodes accept the next one before it is used. The authority is
replaced over three, but only by those that are asked to. The first publishes the next authority: every node trusts it.
From then on it signs, so the certificates of the second rotation are its own. The third stops trusting the old one.
Spark reads at its start whom it trusts, so these rotations restart its nodes too.

Airflow's own keys are not renewed here, because that stops Airflow: `kintsugi.installation.airflow_key_rotation`.

Each may be killed and run again. Between 1 and 6 nothing is renewed a second time, because nodes that the roll-out has
not reached still use the old logins.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.controlplane.s3proxy import drop_replaced_keys, renew_keys
from kintsugi.core import certificates
from kintsugi.core.certificates import Login, Principal
from kintsugi.core.client_tls import current_login
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import CASSANDRA_JMX_SECRET, Settings, replace_secret
from kintsugi.infra.ssh import (
    accepts_next_key,
    drop_old_host_authority,
    is_key_published,
    promote_next_host_authority,
    promote_next_key,
    publish_next_host_authority,
    publish_next_key,
    shows_present_authority,
)
from kintsugi.operations.context import Context
from kintsugi.pipeline import authorization
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.releases import drift

if TYPE_CHECKING:
    from cassandra.cluster import Session

_LOGINS = (*authorization.ROLES, Principal.RECOVERY)
_LEASE_S = 120.0
_SSHD_S = 15.0  # a new sshd has shown its certificate by then


def renew_secrets(settings: Settings, *, authority: bool = False) -> str:
    """Make new certificates, logins and keys, and a new password for JMX; returns what was done, as a sentence.

    ``authority``: publish the next authority too. Does nothing while the rotation before isn't finished. Raises
    KintsugiError when Cassandra can't be asked; then nothing is renewed.
    """
    mark = _unfinished_mark(settings)
    if mark.exists():
        return "the secrets are renewed already, and their roll-out is not finished"
    renewed = []
    if certificates.has_authority(settings):
        logins = _renew_logins(settings)
        if authority:
            certificates.publish_next_authority(settings)
        renewed = [
            f"{certificates.renew_certificates(settings)} certificates",
            f"{logins} logins of Cassandra",
        ]
        ControlPlane(settings).restart_collector()
    renewed.append(f"{renew_keys(settings)} keys of S3")
    replace_secret(settings, CASSANDRA_JMX_SECRET)
    publish_next_key(settings)
    publish_next_host_authority(settings)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return f"renewed: {', '.join([*renewed, 'the password of JMX'])}"


def hand_out_secrets(context: Context, holder: str) -> str:
    """Write the new secrets to Spark's nodes without a restart; returns a sentence.

    It comes before the roll-out: the stream logs in again when a node of Cassandra has been restarted. While the
    authority is replaced, nothing is done, and the roll-out restarts these nodes. Raises LeaseHeld while another run
    changes one of them.
    """
    if certificates.is_authority_published(context.settings):
        return "the authority is replaced, so the roll-out restarts Spark's nodes"
    nodes = [node.name for node in context.fleet.of(Role.SPARK_MASTER, Role.SPARK_WORKER)]
    for node in nodes:
        drift.write_files(context, node, holder)
    return f"{', '.join(nodes)} have the new secrets"


def certify_hosts(context: Context, holder: str) -> str:
    """Let the next authority of SSH sign, and give each node a certificate of it in turn; returns a sentence.

    It comes after the backup: a control plane that is restored from an older one would trust no node. Raises LeaseHeld
    while another run changes a node, StepFailed if a node doesn't show its certificate; a repetition continues.
    """
    settings, certified = context.settings, []
    promote_next_host_authority(settings)
    for node in context.fleet:
        if shows_present_authority(settings, node):
            continue
        with context.store.hold_lease(node.name, holder, _LEASE_S):
            context.platform().renew_host_certificate(node.name)
            if not wait_until(partial(shows_present_authority, settings, node), _SSHD_S):
                raise StepFailed(
                    f"{node.name} doesn't show its new host certificate after {_SSHD_S:.0f} s: read sshd.log of that "
                    "node, then clear this task. The old one is still trusted"
                )
        certified.append(node.name)
    return f"new host certificates: {', '.join(certified) or 'none, every node has one'}"


def finish_rotation(settings: Settings) -> str:
    """Drop the logins and keys that were replaced, once every node has its new ones; returns a sentence.

    Raises KintsugiError if a client still uses an old login; then nothing is dropped.
    The authority that every node trusts by now signs from then on, and the SSH key that they accept is used.
    """
    dropped: list[str] = []
    if certificates.has_authority(settings):
        with _super_session(settings) as session:
            dropped = authorization.drop_other_logins(session, [current_login(one) for one in _LOGINS])
        certificates.promote_next_authority(settings)
    ssh = f"{_replace_ssh_key(settings)}; {_replace_host_authority(settings)}"
    keys = drop_replaced_keys(settings)
    _unfinished_mark(settings).unlink(missing_ok=True)
    logins = ", ".join(dropped) or "none"
    return f"the rotation is finished; old logins dropped: {logins}; old keys of S3: {keys}; {ssh}"


def _replace_ssh_key(settings: Settings) -> str:
    """Use the next key of SSH if every node lets it in; returns what came of it.

    A node whose release is older than these keys doesn't. The key is then offered to it by the next rotation.
    """
    if not is_key_published(settings):
        return "the key of SSH was replaced before"
    refusing = [node.name for node in settings.fleet if not accepts_next_key(settings, node)]
    if refusing:
        return f"the key of SSH stays, because the next one is not accepted by {', '.join(refusing)}"
    promote_next_key(settings)
    return "the key of SSH is replaced"


def _replace_host_authority(settings: Settings) -> str:
    """Trust only the present authority of SSH if every node shows its certificate; returns what came of it."""
    refusing = [node.name for node in settings.fleet if not shows_present_authority(settings, node)]
    if refusing:
        return f"the old authority of SSH is still trusted, because {', '.join(refusing)} shows no new certificate"
    return (
        "the authority of SSH is replaced"
        if drop_old_host_authority(settings)
        else "the authority of SSH was replaced before"
    )


def is_rotation_unfinished(settings: Settings) -> bool:
    """Whether a rotation was begun that `finish_rotation` has not ended."""
    return _unfinished_mark(settings).exists()


def release_to_roll_out(context: Context) -> str:
    """Return the digest of the release that every node runs.

    Raises GuardRefused when they differ: a roll-out is under way, or has stopped.
    """
    digests = {record.digest for record in context.store.node_releases().values()}
    if len(digests) != 1:
        raise GuardRefused(
            f"the nodes run {len(digests)} releases, so a rotation would update some of them too: "
            "finish the roll-out first (deploy_release), then rotate again"
        )
    return digests.pop()


def _renew_logins(settings: Settings) -> int:
    """Create a login for each principal, then let clients use it; returns their number."""
    fresh = [Login.new(principal) for principal in _LOGINS]
    with _super_session(settings) as session:
        for login in fresh:
            authorization.create_login(session, login)
    for login in fresh:
        certificates.replace_login(settings, login)
    return len(fresh)


def _super_session(settings: Settings) -> AbstractContextManager[Session]:
    contact_points = [node.address for node in settings.fleet.of(Role.CASSANDRA)]
    return session_scope(contact_points, Principal.RECOVERY, keyspace=None)


def _unfinished_mark(settings: Settings) -> Path:
    """The mark of a rotation that was begun and isn't finished."""
    return settings.control / "rotation-unfinished"
