"""Installations for tests: the fleet on another address block, the state in a directory, the way out blocked."""

from __future__ import annotations

import errno
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import Settings, load_settings


def installation(directory: Path, block: str) -> Settings:
    """The real fleet on ``<block>.x.y`` (as in ``127.33``), with its state below ``directory``."""
    fleet_file = directory / "fleet.yaml"
    fleet_file.parent.mkdir(parents=True, exist_ok=True)
    fleet_file.write_text((REPOSITORY / "fleet.yaml").read_text().replace("127.20.", f"{block}."))
    return Settings(state=directory / "state", cache=load_settings().cache, fleet_file=fleet_file)


def give_zones(settings: Settings, zones: Mapping[str, str]) -> None:
    """Write these zones, by node name, into the fleet file; other nodes have none."""
    text = re.sub(r", zone: \S+\}", "}", settings.fleet_file.read_text())
    for name, zone in zones.items():
        text = re.sub(rf"(name: {name}, .*)\}}", rf"\1, zone: {zone}}}", text)
    settings.fleet_file.write_text(text)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that other users may enter, as Postgres' must; pytest closes those of ``tmp_path``."""
    with tempfile.TemporaryDirectory(prefix="kintsugi-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


NOWHERE = ("127.0.0.1", 9)  # the discard port, on which nobody listens

_APT = 'Acquire::http::Proxy "{url}";\nAcquire::https::Proxy "{url}";\nAcquire::Retries "0";\n'
_TERRAFORM = """\
disable_checkpoint = true
provider_installation {{
  network_mirror {{
    url = "https://{host}:{port}/providers/"
  }}
}}
"""
_MAVEN = """\
<settings>
  <mirrors><mirror><id>nowhere</id><mirrorOf>*</mirrorOf><url>{url}/maven</url></mirror></mirrors>
</settings>
"""


def blocked_way_out(settings: Settings) -> dict[str, str]:
    """An environment whose package clients and proxies all lead to NOWHERE, but for the fleet's own addresses.

    ``KINTSUGI_INHERIT`` hands it on to every process of the installation. Maven looks for its settings, and for what
    it fetched before, in the user's home, so it gets another one.
    """
    url = "http://{}:{}".format(*NOWHERE)
    directory = settings.state.parent / "no-way-out"
    home = directory / "home"
    (home / ".m2").mkdir(parents=True, exist_ok=True)
    (home / ".m2" / "settings.xml").write_text(_MAVEN.format(url=url))
    (directory / "apt.conf").write_text(_APT.format(url=url))
    (directory / "terraform.rc").write_text(_TERRAFORM.format(host=NOWHERE[0], port=NOWHERE[1]))
    fleet = settings.fleet
    own = ",".join(["localhost", "127.0.0.1", fleet.control_plane.address, *(node.address for node in fleet)])
    proxies = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
    blocked = {
        **{name: url for proxy in proxies for name in (proxy, proxy.upper())},
        "no_proxy": own,
        "NO_PROXY": own,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{url}/simple",
        "PIP_EXTRA_INDEX_URL": f"{url}/simple",
        "PIP_PROXY": url,
        "PIP_RETRIES": "0",
        "UV_NO_CONFIG": "1",
        "UV_DEFAULT_INDEX": f"{url}/simple",
        "UV_INDEX": f"{url}/simple",
        "UV_HTTP_RETRIES": "0",
        "MAVEN_OPTS": f"-Duser.home={home}",
        "npm_config_registry": f"{url}/npm",
        "GOPROXY": f"{url}/go",
        "GOFLAGS": "-mod=mod",
        "APT_CONFIG": str(directory / "apt.conf"),
        "TF_CLI_CONFIG_FILE": str(directory / "terraform.rc"),
        "CHECKPOINT_DISABLE": "1",
    }
    return {**blocked, "KINTSUGI_INHERIT": ",".join(blocked)}


def leads_nowhere() -> bool:
    """Whether a connection to NOWHERE is refused at this moment."""
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex(NOWHERE) == errno.ECONNREFUSED
