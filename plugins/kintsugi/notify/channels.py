"""The channels to people, through Apprise: mail, chat, pagers, webhooks, by URL.

They stand in the connection ``kintsugi_apprise``, in the form of Airflow's Apprise provider:
``{"conn_type": "apprise", "extra": {"config": [{"path": "<Apprise URL>", "tag": "page"}, …]}}``. A channel tagged
``page`` gets pages, one tagged ``digest`` digests, one without a tag both. The URLs hold secrets: they
are neither logged nor part of an error nor of a receipt. ``extra.runbooks``: see `kintsugi.notify.runbooks`.
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
    """One way to reach people. ``name`` tells channels apart without giving the URL away."""

    url: str = field(repr=False)
    tags: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return hashlib.sha256(self.url.encode()).hexdigest()[:12]

    def takes(self, tag: str) -> bool:
        return not self.tags or tag in self.tags

    def send(self, title: str, body: str) -> None:
        """Deliver, within TIMEOUT_S seconds; raises KintsugiError when the receiver didn't take it."""
        from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType

        # Nothing of a message is kept on disk, and none of our text is taken for a template or an escape.
        asset = AppriseAsset(app_id="Kintsugi", app_desc="Kintsugi", app_url="", secure_logging=True)
        sender = Apprise(asset=asset)
        if not sender.add(self.url):
            raise KintsugiError(
                f"channel {self.name} of the connection {CONNECTION} is no URL that Apprise knows; correct it there"
            )
        sent = sender.notify(
            body=body,
            title=title,
            notify_type=NotifyType.WARNING,
            body_format=NotifyFormat.TEXT,
            timeout=TIMEOUT_S,
        )
        if not sent:
            raise KintsugiError(f"channel {self.name} ({self.url.partition(':')[0]}) did not take it")


def channels() -> list[Channel]:
    """The channels that the connection defines; none without it. Raises KintsugiError for a malformed one."""
    defined = connection(CONNECTION)
    config: Any = extras(defined).get("config", []) if defined else []
    entries: Sequence[Any] = config if isinstance(config, list) else [config]
    return [_channel(number, entry) for number, entry in enumerate(entries, start=1)]


def _channel(number: int, entry: Any) -> Channel:
    path = entry.get("path") if isinstance(entry, Mapping) else entry
    if not isinstance(path, str) or "://" not in path:
        raise KintsugiError(
            f"entry {number} of extra.config in the connection {CONNECTION} has no Apprise URL as its `path`"
        )
    tags = entry.get("tag", ()) if isinstance(entry, Mapping) else ()
    return Channel(path, frozenset(tags.replace(",", " ").split() if isinstance(tags, str) else tags))
