"""The rival's own environment: a Python with its Spark, and the connectors' jars. Fetched when it is measured.

1. Python: ``<cache>/rival-<digest of requirements.txt>/``, made by uv. It counts once it has its mark ``.complete``, so
   a killed call makes it again.
2. Jars: the artifact set ``rival`` in the cache, fetched and verified like every other set. It is declared beside this
   module and not in ``artifacts/``, so no release and no ``make setup`` knows it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kintsugi.core.errors import KintsugiError
from kintsugi.core.files import hold_lock
from kintsugi.core.settings import Settings, load_settings
from kintsugi.infra import artifacts

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
JARS = "rival"
_COMPLETE = ".complete"
_SYSTEM_CERTIFICATES = Path("/etc/ssl/certs")


@dataclass(frozen=True, slots=True)
class RivalEnvironment:
    """``python``: the interpreter that has the rival's pyspark; ``jars``: what Spark needs beside it."""

    python: Path
    jars: tuple[Path, ...]


def ensure_environment(settings: Settings) -> RivalEnvironment:
    """Fetch what is missing of the rival's environment. Safe to kill and repeat.

    Raises KintsugiError when a package or a jar can't be had, or isn't the one that is locked.
    """
    declared = declare_jars(settings)
    settings.cache.mkdir(parents=True, exist_ok=True)
    artifacts.ensure(declared)
    folder = python_folder(settings)
    with hold_lock(settings.cache / ".rival.lock"):
        if not (folder / _COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install_python(folder)
            (folder / _COMPLETE).touch()
    return RivalEnvironment(folder / "bin" / "python", tuple(sorted(declared.jars(JARS).glob("*.jar"))))


def declare_jars(settings: Settings) -> Settings:
    """Return settings under which the rival's jars are the only artifact set."""
    return replace(settings, repository=HERE)


def python_folder(settings: Settings) -> Path:
    """Return the directory of the rival's Python; other locked packages have another one."""
    return settings.cache / f"rival-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"


def installer_variables(environment: Mapping[str, str], *, system_certificates: bool) -> dict[str, str]:
    """Return the variables of uv: as `bin/bootstrap`, it trusts the system's certificates where there are any."""
    wanted = {"UV_SYSTEM_CERTS": environment.get("UV_NATIVE_TLS", "true")} if system_certificates else {}
    return {**wanted, **environment}


def _install_python(folder: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    _run_installer([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(folder / "bin" / "python"),
        "--require-hashes",
    ]
    # pyspark comes as source only; what builds it is locked in the same file.
    _run_installer([*install, "--build-constraints", str(REQUIREMENTS), "-r", str(REQUIREMENTS)])


def _run_installer(command: list[str]) -> None:
    certificates = _SYSTEM_CERTIFICATES.is_dir() and any(_SYSTEM_CERTIFICATES.iterdir())
    done = subprocess.run(
        command, env=installer_variables(os.environ, system_certificates=certificates),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise KintsugiError(
            f"the rival's Python could not be installed from {REQUIREMENTS}: {' '.join(reason)[:600]}; "
            "check the network and run it again. If a hash does not match, do not use the package"
        )


def main(arguments: list[str] | None = None) -> None:
    """Fetch the rival's environment; ``--lock`` writes the lock file of its jars, for `bin/lock`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.rival.environment", description=main.__doc__
    )
    parser.add_argument("--lock", action="store_true", help="write jars.sha256 from what Maven gives")
    options = parser.parse_args(arguments)
    settings = load_settings()
    try:
        if options.lock:
            for lock in artifacts.write_locks(declare_jars(settings)):
                print(f"wrote {lock.relative_to(settings.repository)}")
        else:
            print(ensure_environment(settings).python)
    except KintsugiError as error:
        sys.exit(f"kintsugi: {error}")


if __name__ == "__main__":
    main()
