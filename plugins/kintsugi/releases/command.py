"""``kintsugi release …``: build, list, show, diff, drift."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings
from kintsugi.operations.context import Context
from kintsugi.releases import archive, rollout_record
from kintsugi.releases.assignment import open_release

WORDS = {"build": (0, 0), "list": (0, 0), "show": (1, 1), "diff": (1, 2), "drift": (0, 0)}
"""The subcommands, each with the least and the largest number of digests."""


def main(options: argparse.Namespace, settings: Settings) -> int:
    """Run ``options.what`` with ``options.digests``. Raises KintsugiError for a wrong number of digests."""
    least, most = WORDS[options.what]
    if not least <= len(options.digests) <= most:
        wanted = f"{least} to {most}" if least < most else str(least)
        raise KintsugiError(
            f"`release {options.what}` takes {wanted} digests, not {len(options.digests)}; `kintsugi release list` "
            "shows them"
        )
    verbs: dict[str, Callable[[Context, argparse.Namespace], int]] = {
        "build": _build_release,
        "list": _list_releases,
        "show": _show_release,
        "diff": _show_diff,
        "drift": _show_drift,
    }
    return verbs[options.what](Context.from_environment(), options)


def _build_release(context: Context, options: argparse.Namespace) -> int:
    release = archive.publish_release(context)
    print(f"{release.digest}  {release.directory}")
    return 0


def _list_releases(context: Context, options: argparse.Namespace) -> int:
    runs: dict[str, list[str]] = {}
    for node, record in context.store.node_releases().items():
        runs.setdefault(record.digest, []).append(node)
    for record in context.store.read_releases():
        on = ", ".join(runs.get(record.digest, [])) or "no node"
        print(
            f"{record.digest[:12]}  {record.built_at:%Y-%m-%d %H:%M}  {record.verdict:10}  {on}; {record.origin}"
        )
    for deployment in context.store.read_deployments(10):
        print(
            f"{deployment.started_at:%Y-%m-%d %H:%M}  {deployment.digest[:12]}  {deployment.state:10}  "
            f"{deployment.reason or ''}  ({deployment.id})"
        )
    return 0


def _show_release(context: Context, options: argparse.Namespace) -> int:
    record = context.store.release_record(options.digests[0])
    deployments = [item for item in context.store.read_deployments(50) if item.digest == record.digest]
    document = {
        "digest": record.digest,
        "origin": record.origin,
        "built_at": record.built_at.isoformat(),
        "verdict": record.verdict,
        "known_good_at": record.known_good_at and record.known_good_at.isoformat(),
        "bad_reason": record.bad_reason,
        "files": {
            path: member.sha256 for path, member in open_release(context, record.digest).manifest.items()
        },
        "deployments": [rollout_record.deployment_json(item) for item in deployments],
    }
    print(json.dumps(document, indent=2))
    return 0


def _show_diff(context: Context, options: argparse.Namespace) -> int:
    """Show the difference of two releases, or of one and this checkout."""
    releases = [
        open_release(context, context.store.release_record(prefix).digest) for prefix in options.digests
    ]
    new = releases[1] if len(releases) > 1 else archive.build_release(context.settings)
    print(archive.unified_diff(releases[0], new), end="")
    return 0


def _show_drift(context: Context, options: argparse.Namespace) -> int:
    differing_paths = context.store.read_drift()
    for node, paths in differing_paths.items():
        for path in paths:
            print(f"{node}  {path}")
    return 1 if differing_paths else 0
