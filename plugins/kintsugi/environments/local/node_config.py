"""The files that make a directory into a local node: its init, its sshd, its log shipper."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from kintsugi.core.errors import PreflightError
from kintsugi.core.fleet import ControlPlaneEndpoints, Node
from kintsugi.core.settings import Settings, inherited
from kintsugi.environments import node_files
from kintsugi.environments.local.node_isolation import Isolation, service_prefix
from kintsugi.environments.local.node_process import MARK
from kintsugi.infra.ssh import ensure_keys, make_key, sign_host_key

_SOCKET_PATH_LIMIT = 100  # of the kernel's 108 bytes; supervisord binds a longer temporary name first

_SUPERVISORD = """\
[supervisord]
nodaemon = true
user = {user}
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {root}/run/supervisord.pid
childlogdir = {root}/log

[unix_http_server]
file = {root}/run/supervisor.sock
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{root}/run/supervisor.sock

[include]
files = {root}/etc/supervisor.d/*.conf
"""

_PROGRAM = """\
[program:{name}]
command = {command}
autostart = true
autorestart = true
startsecs = 1
startretries = 1000000
redirect_stderr = true
stdout_logfile = {root}/log/{name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 1
"""

_SSHD = """\
ListenAddress {address}:{port}
HostKey {root}/etc/ssh/host_key
HostCertificate {root}/etc/ssh/host_key-cert.pub
AuthorizedKeysFile {root}/etc/ssh/authorized_keys
PidFile none
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
# The keys lie in a directory that belongs to the node; only its owner gets there.
StrictModes no
# Ansible opens many sessions at once when a whole fleet is configured.
MaxStartups 50:30:100
MaxSessions 50
# Nothing leaves this machine, so nobody can keep it for a quantum computer; the exchange against those costs both
# ends a tenth of a second of a processor for each connection, and a second look at a node makes four.
KexAlgorithms curve25519-sha256
# What runs on the node over SSH finds supervisorctl and Python where the node's own services find them. A bash that
# sshd starts reads the user's ~/.bashrc unless it takes itself for an inner one: that is a person's, not the node's,
# may print or change PATH, and took longer than the command.
SetEnv SHLVL=1 {mark}={root} KINTSUGI_NODE={name} PATH={path}{inherited}
Subsystem sftp internal-sftp
"""

# RFC 5424 by hand: HOSTNAME is the node, APP-NAME the service, which is the stem of the log's file name.
# The queue lives in memory and drops when it is full: a collector that is away must never stop a service.
_RSYSLOG = """\
global(workDirectory="{root}/run/rsyslog" maxMessageSize="64k" net.enableDNS="off")
module(load="imfile" mode="inotify")
input(type="imfile" file="{root}/log/*.log" tag="log" addMetadata="on" facility="local0"
      reopenOnTruncate="on" ruleset="ship")
template(name="named" type="string"
         string="<%PRI%>1 %timegenerated:::date-rfc3339% {name} %$!service% - - - %msg%\\n")
ruleset(name="ship") {{
  set $!service = re_extract($!metadata!filename, "([^/]+)[.]log\\$", 0, 1, "unknown");
  action(type="omfwd" target="{collector}" port="{port}" protocol="tcp" template="named"
         keepalive="on" action.reportSuspension="off"
         action.resumeRetryCount="-1" action.resumeInterval="2" action.resumeIntervalMax="10"
         queue.type="LinkedList" queue.size="20000" queue.timeoutEnqueue="0" queue.discardMark="18000"
         queue.discardSeverity="0" queue.saveOnShutdown="off")
}}
"""


def write_configuration(
    settings: Settings, node: Node, control: ControlPlaneEndpoints, isolation: Isolation, user: str
) -> None:
    """Write all that the init of ``node`` reads; the same files each time, so it may be run again.

    Raises PreflightError when a program is missing or the state's path is too long for a socket.
    """
    root = settings.node_root(node.name)
    _check_socket_path(root)
    node_files.make_directory(root, mode=0o700)
    for directory in ("etc/supervisor.d", "etc/ssh", "log", "run/rsyslog", "tmp", "bin"):
        node_files.make_directory(root, directory)
    sshd = _program("sshd", "openssh-server")
    rsyslogd = _program("rsyslogd", "rsyslog")
    before = [*service_prefix(isolation)]
    etc = root / "etc"
    programs = {
        "sshd": [*before, sshd, "-D", "-e", "-f", str(etc / "sshd_config")],
        "rsyslogd": [*before, rsyslogd, "-n", "-f", str(etc / "rsyslog.conf"), "-iNONE"],
    }
    sections = [_SUPERVISORD.format(root=root, user=user)]
    sections += [
        _PROGRAM.format(name=name, command=" ".join(command), root=root) for name, command in programs.items()
    ]
    node_files.write_file(root, "etc/supervisord.conf", "\n".join(sections))
    also = "".join(f' {key}="{value}"' for key, value in inherited().items())
    node_files.write_file(
        root,
        "etc/sshd_config",
        _SSHD.format(
            address=node.address,
            port=node.ssh_port,
            root=root,
            mark=MARK,
            name=node.name,
            path=search_path(),
            inherited=also,
        ),
    )
    node_files.write_file(
        root,
        "etc/rsyslog.conf",
        _RSYSLOG.format(root=root, name=node.name, collector=control.address, port=control.log_port),
    )
    _write_keys(settings, node, root)


def search_path() -> str:
    """``PATH`` on every node: the installation's own programs first."""
    return f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _write_keys(settings: Settings, node: Node, root: Path) -> None:
    """Give the node a new host key with its certificate, made outside its root, and our user's public key."""
    shared = ensure_keys(settings)
    with tempfile.TemporaryDirectory(dir=shared) as private:
        key = Path(private, "host_key")
        make_key(key, comment=node.name)
        sign_host_key(settings, node, key)
        for name, mode in (("host_key", 0o600), ("host_key.pub", 0o644), ("host_key-cert.pub", 0o644)):
            node_files.write_file(root, f"etc/ssh/{name}", Path(private, name).read_bytes(), mode)
    node_files.write_file(root, "etc/ssh/authorized_keys", (shared / "user.pub").read_bytes())


def _check_socket_path(root: Path) -> None:
    if len(str(root)) > _SOCKET_PATH_LIMIT - len("/run/supervisor.sock") or " " in str(root):
        raise PreflightError(
            f"{root} is too long (or has a space) for the socket of a node's init; "
            "set KINTSUGI_STATE to a shorter path"
        )


def _program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise PreflightError(f"{name} is not installed; install the Debian package {package}")
    return found
