"""Send messages to people with Apprise: mail, chat, pagers, webhooks, each by its URL.

The channels are defined in the connection ``kintsugi_apprise``, in the format of Airflow's Apprise provider:
``{"conn_type": "apprise", "extra": {"config": [{"path": "<Apprise URL>", "tag": "page"}, …]}}``. A channel tagged
``page`` gets pages, a channel tagged ``digest`` gets digests, a channel without a tag gets both. The URLs contain
secrets: no log, error or receipt contains them. ``extra.runbooks``: see `kintsugi.notify.runbooks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kintsugi.core.connections import connection, extras
from kintsugi.core.errors import KintsugiError

CONNECTION = "kintsugi_apprise"
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Channel:
    """One way to reach people. ``name`` identifies the channel without its URL."""

    url: str = field(repr=False)
    tags: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return hashlib.sha256(self.url.encode()).hexdigest()[:12]

    def takes(self, tag: str) -> bool:
        return not self.tags or tag in self.tags

    def send(self, title: str, body: str) -> None:
        """Deliver within TIMEOUT_S seconds; raises KintsugiError when the receiver does not accept the message."""
        from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType

        # Apprise writes nothing to disk, and does not interpret our text as a template or an escape.
        asset = AppriseAsset(app_id="Kintsugi", app_desc="Kintsugi", app_url="", secure_logging=True)
        sender = Apprise(asset=asset)
        if not sender.add(self.url):
            raise KintsugiError(
                f"channel {self.name} of the connection {CONNECTION} has no valid Apprise URL; correct it there"
            )
        sent = sender.notify(
            body=body,
            title=title,
            notify_type=NotifyType.WARNING,
            body_format=NotifyFormat.TEXT,
            timeout=TIMEOUT_S,
        )
        if not sent:
            raise KintsugiError(
                f"channel {self.name} ({self.url.partition(':')[0]}) did not accept the message"
            )


def load_channels() -> list[Channel]:
    """The channels of the connection; empty if there is none. Raises KintsugiError for a malformed channel."""
    defined = connection(CONNECTION)
    config: Any = extras(defined).get("config", []) if defined else []
    entries: Sequence[Any] = config if isinstance(config, list) else [config]
    return [_parse_channel(number, entry) for number, entry in enumerate(entries, start=1)]


def _parse_channel(number: int, entry: Any) -> Channel:
    path = entry.get("path") if isinstance(entry, Mapping) else entry
    if not isinstance(path, str) or "://" not in path:
        raise KintsugiError(
            f"entry {number} of extra.config in the connection {CONNECTION} has no Apprise URL as its `path`"
        )
    tags = entry.get("tag", ()) if isinstance(entry, Mapping) else ()
    return Channel(path, frozenset(tags.replace(",", " ").split() if isinstance(tags, str) else tags))
