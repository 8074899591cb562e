"""The first process of a local node: it hides what the node may not see, then becomes supervisord.

Runs as ``python -m kintsugi.environments.local.node_init <name>`` inside the namespaces that ``node_isolation`` chose.
It gives up the right to mount before supervisord starts, so that no service can undo the isolation
(`kintsugi.environments.local.node_restrictions`).
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from kintsugi.core.process_priority import lower_priority
from kintsugi.core.settings import Settings, load_settings
from kintsugi.environments import node_files
from kintsugi.environments.local.node_isolation import Isolation
from kintsugi.environments.local.node_restrictions import (
    MS_BIND,
    MS_REC,
    drop_capabilities,
    make_read_only,
    mount,
    protect_file_systems,
    replace_devices,
)

_TMP, _RUN = Path("/tmp"), Path("/run")  # noqa: S108 - masked, not used


def kept_paths(settings: Settings, name: str) -> dict[Path, bool]:
    """Return the paths below the masks that a node may see; path → whether it may write there."""
    programs = [settings.repository, Path(sys.prefix), Path(sys.base_prefix)]
    if os.environ.get("JAVA_HOME"):
        programs.append(Path(os.environ["JAVA_HOME"]))
    paths = {path.resolve(): False for path in programs}
    paths[settings.cache.resolve()] = False
    paths[settings.node_root(name).resolve()] = True
    paths[settings.node_volume(name).resolve()] = True
    return {path: writable for path, writable in paths.items() if path.exists()}


def hide_the_rest(settings: Settings, name: str) -> None:
    """Mask ``/tmp``, ``/run`` and the state, then mount what the node may see at the same paths again.

    These directories are opened first: a descriptor still reaches a directory below a mask, and writes where its path
    is read-only. Everything else of the machine becomes read-only.
    """
    paths = kept_paths(settings, name)
    handles = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in paths}
    state = settings.state.resolve()
    # The node may have put a link in the place of its own directory: of what it names, nothing may be shown.
    with node_files.open_directory(settings.node_root(name), "tmp", make=True) as private:
        protect_file_systems()
        mount(f"/proc/self/fd/{private}", _TMP, None, MS_BIND)
    mount("tmpfs", _RUN, "tmpfs", 0, "size=16m,mode=755")
    state.mkdir(parents=True, exist_ok=True)  # below /tmp it is gone
    mount("tmpfs", state, "tmpfs", 0, "size=1m,mode=755")
    masks = [_TMP, _RUN, state]
    for path, handle in sorted(handles.items()):
        if any(path.is_relative_to(mask) for mask in masks):
            path.mkdir(parents=True, exist_ok=True)
            mount(f"/proc/self/fd/{handle}", path, None, MS_BIND | MS_REC)
            if not paths[path]:
                make_read_only(path)
        os.close(handle)
    (_RUN / "sshd").mkdir(mode=0o755)  # sshd under root needs it for privilege separation


def main(name: str) -> None:
    """Become the init of node ``name``; raises OSError if the kernel refuses a mount."""
    settings = load_settings()
    isolation = Isolation(os.environ["KINTSUGI_ISOLATION"])
    if isolation.hides_files:
        hide_the_rest(settings, name)
        replace_devices()
        drop_capabilities()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Kafka and Cassandra hold many files open
    lower_priority()  # also if a recovery with a raised priority creates the node
    root = settings.node_root(name)
    os.chdir(root)
    supervisord = str(Path(sys.prefix) / "bin" / "supervisord")
    os.execv(  # noqa: S606 - no shell is wanted
        supervisord, [supervisord, "--nodaemon", "-c", str(root / "etc" / "supervisord.conf")]
    )


if __name__ == "__main__":
    main(sys.argv[1])
