"""HTML of the page: templates, panels and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kintsugi.core.settings import Settings
from kintsugi.pipeline.ingest.intake_monitor import read_rules
from kintsugi.web import flow, headline, incident_view, intake, node_rows
from kintsugi.web.assets import FOREIGN, OWN, load_asset
from kintsugi.web.health import HealthFacts
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import WORDS, Severity

if TYPE_CHECKING:
    from fastapi import Request

TEMPLATES = Path(__file__).parent / "templates"
PANELS = ("headline", "fleet", "flow", "intake", "unusual", "chaos", "recent")
SIGNS = {Severity.WELL: "✓", Severity.NOTE: "!", Severity.BUSY: "↻", Severity.BAD: "✕", Severity.UNKNOWN: "?"}


@dataclass(frozen=True, slots=True)
class Viewer:
    """The user of the page: ``acts`` is True when Airflow lets them start a recovery."""

    name: str
    acts: bool


class PageRenderer:
    """Renders templates. The browser sends the digests of its panels, so that only changed panels are sent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rules = read_rules()
        self._jinja = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # code and templates change together, at a restart
        )
        self._jinja.globals.update(
            asset_url=self._asset_url, signs=SIGNS, words=WORDS, format_rate=flow.format_rate
        )
        self._jinja.filters.update(moment=format_moment, lasting=format_start, seconds=format_duration)

    def render(self, template: str, **values: Any) -> str:
        """A part of a page."""
        return self._jinja.get_template(template).render(**values)

    def page(self, template: str, request: Request, **values: Any) -> str:
        """A whole page; its links are relative to the path where Airflow mounts it."""
        return self.render(template, base=request.scope.get("root_path", ""), whole=True, **values)

    def page_or_part(self, template: str, request: Request, **values: Any) -> str:
        """The part for htmx, the whole page for a browser without scripts."""
        if "hx-request" in request.headers:
            return self.render(template, base=request.scope.get("root_path", ""), whole=False, **values)
        return self.page(template, request, **values)

    def front(self, request: Request, readings: Mapping[str, CachedValue[Any]], viewer: Viewer) -> str:
        """The page itself with all its panels."""
        panels = self.panels(readings, viewer)
        return self.page(
            "front.html",
            request,
            panels=_mark_safe(panels),
            seen=_join_digests(panels),
            viewer=viewer,
        )

    def changes(
        self, readings: Mapping[str, CachedValue[Any]], viewer: Viewer, seen: frozenset[str]
    ) -> str | None:
        """The panels that are not in ``seen`` (digests), to be swapped in; None when all are in it."""
        panels = self.panels(readings, viewer)
        changed = {name: html for name, html in panels.items() if short_digest(html) not in seen}
        if not changed:
            return None
        return self.render(
            "live.html",
            panels=_mark_safe(changed),
            seen=_join_digests(panels),
        )

    def panels(self, readings: Mapping[str, CachedValue[Any]], viewer: Viewer) -> dict[str, str]:
        """HTML of every panel by name. The same readings give the same HTML, because times are absolute."""
        stream = flow.assess_stream(readings["flow"])
        files = readings["files"].value
        seen = intake.assess_intake(files.report, self._rules, datetime.now(UTC)) if files else None
        facts = HealthFacts(
            now=datetime.now(UTC),
            fleet=self._settings.fleet,
            nodes=readings["nodes"],
            store=readings["store"],
            airflow=readings["airflow"],
            releases=readings["releases"],
            stream=stream,
            intake=seen,
        )
        values = {
            "facts": facts,
            "viewer": viewer,
            "readings": readings,
            "headline": headline.choose_headline(facts),
            "fleet": node_rows.build_fleet_rows(facts),
            "release": node_rows.describe_releases(readings["releases"]),
            "scaling": node_rows.describe_scaling(readings["releases"]),
            "compared": node_rows.describe_replica_repairs(facts),
            "stream": stream,
            "intake": seen,
            "intake_notes": intake.notes_of(files.report) if files and files.report else (),
            "not_taken": intake.not_taken_line(files.report) if files and files.report else "",
            "stages": flow.build_stages(stream, readings["files"], readings["flow"]),
            "score": incident_view.score_chaos(facts.store.value.faults if facts.store.value else ()),
            "recent": [
                incident_view.build_row(incident)
                for incident in (facts.store.value.recent if facts.store.value else ())
            ],
            "open": [incident_view.build_row(incident) for incident in facts.open_incidents],
        }
        return {name: self.render(f"panel_{name}.html", **values) for name in PANELS}

    def _asset_url(self, base: str, name: str) -> str:
        assert name in FOREIGN or name in OWN, name
        asset = load_asset(name, self._settings.jars("web"))
        return f"{base}/static/{name}?{asset.digest if asset else ''}"


def short_digest(html: str) -> str:
    """A short digest of a panel's content."""
    return hashlib.sha256(html.encode()).hexdigest()[:10]


def format_moment(at: datetime | None, form: str = "%Y-%m-%d %H:%M:%S") -> Markup:
    """A ``<time>`` that the browser turns into "3 min ago"; without scripts it shows the time in UTC."""
    if at is None:
        return Markup("")
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC">{} UTC</time>').format(
        utc.isoformat(timespec="seconds"), utc.strftime("%Y-%m-%d %H:%M:%S"), utc.strftime(form)
    )


def format_start(since: datetime) -> Markup:
    """A ``<time>`` that the browser turns into "for 3 minutes"; without scripts it shows the start in UTC."""
    utc = since.astimezone(UTC)
    return Markup('<time data-lasting datetime="{}" title="since {} UTC">since {} UTC</time>').format(
        utc.isoformat(timespec="seconds"),
        utc.strftime("%Y-%m-%d %H:%M:%S"),
        utc.strftime("%Y-%m-%d %H:%M:%S"),
    )


def format_duration(value: float | None) -> str:
    """A duration as text: ``9.4 s``, ``1 min 12 s``."""
    if value is None:
        return "-"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def _mark_safe(panels: Mapping[str, str]) -> dict[str, Markup]:
    # Rendered by our own templates, which have escaped the values.
    return {name: Markup(html) for name, html in panels.items()}  # noqa: S704


def _join_digests(panels: Mapping[str, str]) -> str:
    return ".".join(short_digest(html) for html in panels.values())
