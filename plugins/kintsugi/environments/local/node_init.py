"""The first process of a local node: arrange what the node may see, then become supervisord.

Runs as ``python -m kintsugi.environments.local.node_init <name>`` inside the namespaces that ``node_isolation`` chose.
It gives up the right to mount before supervisord starts, so that no service can undo the walls.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

from kintsugi.core.process_priority import lower_priority
from kintsugi.core.settings import Settings, load_settings
from kintsugi.environments import node_files
from kintsugi.environments.local.node_isolation import Isolation

_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC = 0x1, 0x20, 0x1000, 0x4000
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_CAP_SYS_ADMIN = 21
_TMP, _RUN = Path("/tmp"), Path("/run")  # noqa: S108 - masked, not used
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, str(target), kind, data)]
    if _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {source} on {target}: {os.strerror(code)}")


def kept_paths(settings: Settings, name: str) -> dict[Path, bool]:
    """What a node may see of the masked places; path → whether it may write there."""
    programs = [settings.repository, Path(sys.prefix), Path(sys.base_prefix)]
    if os.environ.get("JAVA_HOME"):
        programs.append(Path(os.environ["JAVA_HOME"]))
    kept = {path.resolve(): True for path in programs}
    kept[settings.cache.resolve()] = False
    kept[settings.node_root(name).resolve()] = True
    kept[settings.node_volume(name).resolve()] = True
    return {path: writable for path, writable in kept.items() if path.exists()}


def hide_the_rest(settings: Settings, name: str) -> None:
    """Mask ``/tmp``, ``/run`` and the state, then put back what the node may see, at the same paths.

    The kept directories are opened first: a descriptor still reaches a directory that a mask covers.
    """
    kept = kept_paths(settings, name)
    handles = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in kept}
    state = settings.state.resolve()
    # The node may have put a link in the place of its own directory: of what it names, nothing may be shown.
    with node_files.open_directory(settings.node_root(name), "tmp", make=True) as private:
        _mount(f"/proc/self/fd/{private}", _TMP, None, _MS_BIND)
    _mount("tmpfs", _RUN, "tmpfs", 0, "size=16m,mode=755")
    state.mkdir(parents=True, exist_ok=True)  # it may have lain in /tmp
    _mount("tmpfs", state, "tmpfs", 0, "size=1m,mode=755")
    masks = [_TMP, _RUN, state]
    for path, handle in sorted(handles.items()):
        if any(path.is_relative_to(mask) for mask in masks) or not kept[path]:
            path.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{handle}", path, None, _MS_BIND | _MS_REC)
        if not kept[path]:
            _mount("none", path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        os.close(handle)
    (_RUN / "sshd").mkdir(mode=0o755)  # sshd under root wants it for privilege separation


def give_up_mounting() -> None:
    """Drop CAP_SYS_ADMIN from what any later program can have."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if _libc.prctl(_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"drop CAP_SYS_ADMIN: {os.strerror(code)}")


def main(name: str) -> None:
    """Become the init of node ``name``; raises OSError when the kernel refuses a mount."""
    settings = load_settings()
    isolation = Isolation(os.environ["KINTSUGI_ISOLATION"])
    if isolation.hides_files:
        hide_the_rest(settings, name)
        give_up_mounting()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Kafka and Cassandra hold many files open
    lower_priority()  # also where a recovery that goes first makes it
    root = settings.node_root(name)
    os.chdir(root)
    supervisord = str(Path(sys.prefix) / "bin" / "supervisord")
    os.execv(  # noqa: S606 - no shell is wanted
        supervisord, [supervisord, "--nodaemon", "-c", str(root / "etc" / "supervisord.conf")]
    )


if __name__ == "__main__":
    main(sys.argv[1])
