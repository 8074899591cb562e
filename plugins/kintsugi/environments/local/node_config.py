"""The configuration of a local node: its init, its sshd, its log shipper."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from kintsugi.core import certificates
from kintsugi.core.errors import PreflightError
from kintsugi.core.fleet import ControlPlaneEndpoints, Node
from kintsugi.core.settings import Settings, inherited_variables
from kintsugi.environments import node_files
from kintsugi.environments.local.node_isolation import Isolation, service_prefix
from kintsugi.environments.local.node_process import MARK
from kintsugi.infra.ssh import authorized_keys, ensure_keys, make_key, sign_host_key

HOST_KEY, HOST_CERTIFICATE = "etc/ssh/host_key.pub", "etc/ssh/host_key-cert.pub"  # below a node's root
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
# Nothing leaves this machine, so no quantum computer can read it later. The key exchange against those costs both ends
# 0.1 s of processor time for each connection, and a second opinion on a node opens four.
KexAlgorithms curve25519-sha256
# Commands over SSH get the PATH of the node's own services. A bash that sshd starts reads the user's ~/.bashrc, unless
# SHLVL is set. That file belongs to a person: it may print or change PATH, and took longer than the command.
SetEnv SHLVL=1 {mark}={root} KINTSUGI_NODE={name} PATH={path}{inherited}
Subsystem sftp internal-sftp
"""

# A template in the form of RFC 5424: HOSTNAME is the node, APP-NAME the service, which is the stem of the log's name.
# The queue is in memory and drops lines when it is full: a collector that is down must never stop a service.
_RSYSLOG = """\
global(workDirectory="{root}/run/rsyslog" maxMessageSize="64k" net.enableDNS="off"{certificates})
module(load="imfile" mode="inotify")
input(type="imfile" file="{root}/log/*.log" tag="log" addMetadata="on" facility="local0"
      reopenOnTruncate="on" ruleset="ship")
template(name="named" type="string"
         string="<%PRI%>1 %timegenerated:::date-rfc3339% {name} %$!service% - - - %msg%\\n")
ruleset(name="ship") {{
  set $!service = re_extract($!metadata!filename, "([^/]+)[.]log\\$", 0, 1, "unknown");
  action(type="omfwd" target="{collector}" port="{port}" protocol="tcp" template="named"
         keepalive="on" action.reportSuspension="off"{to_whom}
         action.resumeRetryCount="-1" action.resumeInterval="2" action.resumeIntervalMax="10"
         queue.type="LinkedList" queue.size="20000" queue.timeoutEnqueue="0" queue.discardMark="18000"
         queue.discardSeverity="0" queue.saveOnShutdown="off")
}}
"""


_TO_COLLECTOR = """
         StreamDriver="gtls" StreamDriverMode="1" StreamDriverAuthMode="x509/name"
         StreamDriverPermittedPeers="collector"\
"""


def format_rsyslog_tls(directory: Path, certificate: str) -> str:
    """Return the parameters of rsyslog's ``global`` for TLS, with the files of ``directory``."""
    return f"""
       defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{directory}/trust.pem"
       defaultNetstreamDriverCertFile="{directory}/{certificate}"
       defaultNetstreamDriverKeyFile="{directory}/{certificate}\""""


def write_configuration(
    settings: Settings,
    node: Node,
    control: ControlPlaneEndpoints,
    isolation: Isolation,
    user: str,
    into: Path | None = None,
) -> None:
    """Write all files that the init of ``node`` reads; it may be run again.

    ``into``: the directory to write them to, if that is not the node's root; they name the root nevertheless.
    Raises PreflightError if a program is missing or the state's path is too long for a socket.
    """
    root = settings.node_root(node.name)
    top = into or root
    _check_socket_path(root)
    node_files.make_directory(top, mode=0o700)
    for directory in ("etc/supervisor.d", "etc/ssh", "log", "run/rsyslog", "tmp", "bin"):
        node_files.make_directory(top, directory)
    sshd = _find_program("sshd", "openssh-server")
    rsyslogd = _find_program("rsyslogd", "rsyslog")
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
    node_files.write_file(top, "etc/supervisord.conf", "\n".join(sections))
    also = "".join(f' {key}="{value}"' for key, value in inherited_variables().items())
    node_files.write_file(
        top,
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
    tls = _write_certificates(settings, node, top)
    node_files.write_file(
        top,
        "etc/rsyslog.conf",
        _RSYSLOG.format(
            root=root,
            name=node.name,
            collector=control.address,
            port=control.log_port,
            certificates=format_rsyslog_tls(root / "etc/tls", f"{certificates.principal_of(node)}.pem")
            if tls
            else "",
            to_whom=_TO_COLLECTOR if tls else "",
        ),
    )
    _write_keys(settings, node, top)


def search_path() -> str:
    """Return ``PATH`` of every node: the installation's own programs come first."""
    return f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _write_certificates(settings: Settings, node: Node, root: Path) -> bool:
    """Write what the node's rsyslogd needs before Ansible runs; returns whether the installation uses TLS."""
    if not certificates.has_authority(settings):
        return False
    node_files.make_directory(root, "etc/tls")
    for name, text in certificates.node_files(settings, node).items():
        node_files.write_file(root, f"etc/tls/{name}", text, 0o600)
    return True


def _write_keys(settings: Settings, node: Node, root: Path) -> None:
    """Give the node a new host key with its certificate, made outside its root, and our user's public keys."""
    shared = ensure_keys(settings)
    with tempfile.TemporaryDirectory(dir=shared) as private:
        key = Path(private, "host_key")
        make_key(key, comment=node.name)
        sign_host_key(settings, node, key)
        for name, mode in (("host_key", 0o600), ("host_key.pub", 0o644), ("host_key-cert.pub", 0o644)):
            node_files.write_file(root, f"etc/ssh/{name}", Path(private, name).read_bytes(), mode)
    node_files.write_file(root, "etc/ssh/authorized_keys", authorized_keys(settings), 0o600)


def renew_host_certificate(settings: Settings, node: Node) -> None:
    """Give the host key of ``node`` a certificate of the authority that signs now; its sshd reads it when it starts.

    The key stays: it never leaves the node. Raises NodeFileRefused if the node has put anything else in its place, and
    StepFailed if its public half is no key.
    """
    root = settings.node_root(node.name)
    certificate = certify_host_key(settings, node, node_files.read_from(root, HOST_KEY, 0))
    node_files.write_file(root, HOST_CERTIFICATE, certificate)


def certify_host_key(settings: Settings, node: Node, public_key: bytes) -> bytes:
    """Return a certificate of the present authority for the host key of ``node``. Raises StepFailed if it is no key."""
    with tempfile.TemporaryDirectory(dir=ensure_keys(settings)) as private:
        key = Path(private, "host_key")
        key.with_suffix(".pub").write_bytes(public_key)
        sign_host_key(settings, node, key)
        return Path(private, "host_key-cert.pub").read_bytes()


def _check_socket_path(root: Path) -> None:
    if len(str(root)) > _SOCKET_PATH_LIMIT - len("/run/supervisor.sock") or " " in str(root):
        raise PreflightError(
            f"{root} is too long (or has a space) for the socket of a node's init; "
            "set KINTSUGI_STATE to a shorter path"
        )


def _find_program(name: str, package: str) -> str:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if program is None:
        raise PreflightError(f"{name} is not installed; install the Debian package {package}")
    return program
