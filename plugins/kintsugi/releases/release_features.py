"""Kafka's features and a change of its version: a roll-back stays possible, or nothing is rolled out.

A cluster uses a level of each feature (``metadata.version`` among them) that a person raises. A broker whose program
doesn't know that level doesn't start. A roll-out never raises a level, but it may change the program, so before the
first node is changed:

1. The new release's Kafka must know every level that the cluster uses.
2. So must the Kafka of the known-good release, to which the first failed probe returns every node.
3. The level for which the new release formats a disk must be one that the known-good release's Kafka knows. Else a
   broker that is rebuilt during the roll-out could not be rolled back.

What a Kafka knows is asked of its own tool, from its jars, before any broker runs it.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.infra.class_data_sharing import JVM, java_home
from kintsugi.operations.context import Context
from kintsugi.probes.peers import ask_each
from kintsugi.releases.archive import Release
from kintsugi.releases.release_artifacts import settings_of
from kintsugi.wire.kafka import read_features

TOOL_S = 60.0
_LEVEL = re.compile(r"^([a-z.]+)=(\d+)", re.MULTILINE)
_VARIABLES = "ansible/roles/kafka/vars/main.yml"

Levels = Mapping[str, int]
"""The level of each feature, by its name."""


def check_features(context: Context, release: Release, back_to: Release | None) -> None:
    """Raise GuardRefused if a roll-out of ``release`` could not start, or could not be rolled back to ``back_to``.

    Asks nothing where both have the same Kafka.
    """
    jars = settings_of(context.settings, release).jars("kafka")
    old_jars = None if back_to is None else settings_of(context.settings, back_to).jars("kafka")
    if back_to is None or old_jars is None or jars == old_jars:
        return
    used, old_levels = read_used_levels(context), known_levels(old_jars)
    if problem := unknown_level(used, known_levels(jars)):
        raise GuardRefused(f"release {release.short} is not rolled out, its Kafka would not start: {problem}")
    if problem := unknown_level(used, old_levels):
        raise GuardRefused(
            f"release {release.short} is not rolled out, because it could not be rolled back: the Kafka of release "
            f"{back_to.short} would not start: {problem}"
        )
    formatted = format_level(release)
    if problem := unknown_level(known_levels(jars, formatted), old_levels):
        level = formatted or "the newest features of its Kafka"
        raise GuardRefused(
            f"release {release.short} is not rolled out, because a broker that is rebuilt meanwhile could not be "
            f"rolled back to release {back_to.short}: a disk is formatted for {level}; {problem}. "
            f"Keep release_version in {_VARIABLES} until a release with the new Kafka is known-good"
        )


def unknown_level(used: Levels, known: Levels) -> str | None:
    """Return which feature is used at a level above the highest known one, as a sentence; None if none is. Pure."""
    for name, level in sorted(used.items()):
        if level > known.get(name, 0):
            return f"{name} is {level}, and it knows levels up to {known.get(name, 0)}"
    return None


def read_used_levels(context: Context) -> Levels:
    """Return the levels that the cluster uses, the highest that a broker tells; raises GuardRefused if none answers."""
    brokers = context.fleet.of(Role.KAFKA)
    answers = asyncio.run(ask_each(brokers, KAFKA_PORT, read_features))
    if not answers:
        raise GuardRefused("no broker tells which features the cluster uses; see `make status`")
    levels: dict[str, int] = {}
    for features in answers.values():
        levels |= {name: max(level, levels.get(name, 0)) for name, level in features.finalized.items()}
    return levels


def known_levels(jars: Path, release_version: str = "") -> Levels:
    """Return the levels that belong to ``release_version`` (``4.3-IV0``; default: the newest stable) of this Kafka.

    Raises StepFailed with the tool's words, also if this Kafka doesn't know ``release_version``.
    """
    command = [str(java_home() / "bin" / "java"), "-Xmx128m", *JVM, "-cp", f"{jars}/*"]
    command += ["kafka.tools.StorageTool", "version-mapping"]
    command += ["--release-version", release_version] if release_version else []
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=TOOL_S
        )
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"Kafka's StorageTool in {jars} did not answer within {TOOL_S:.0f} s") from error
    levels = {name: int(level) for name, level in _LEVEL.findall(done.stdout)}
    if done.returncode or not levels:
        last = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StepFailed(f"Kafka's StorageTool in {jars} tells no levels of features: {last[-1][:300]}")
    return levels


def format_level(release: Release) -> str:
    """Return the level for which the release formats a Kafka disk (``4.3-IV0``); empty: the newest of its Kafka."""
    import yaml

    variables = yaml.safe_load((release.directory / _VARIABLES).read_text())
    return str(variables["kafka_storage"].get("release_version", ""))
