"""Files for the browser: our own, and htmx and uPlot from their WebJars in the artifact cache.

Nothing is downloaded at run time, and this repository contains no third-party code.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kintsugi.core.errors import KintsugiError

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Name on the page → the jar and the file's name in it.
FOREIGN = {
    "htmx.min.js": ("htmx.org", "dist/htmx.min.js"),
    "uplot.min.js": ("uplot", "dist/uPlot.iife.min.js"),
    "uplot.min.css": ("uplot", "dist/uPlot.min.css"),
}
OWN = ("page.css", "page.js", "chart.js", "icon.svg", "icon-dark.svg")


@dataclass(frozen=True, slots=True)
class Asset:
    """A file for the browser; ``digest`` changes with its content."""

    body: bytes
    media_type: str
    digest: str


@cache
def load_asset(name: str, web_jars: Path) -> Asset | None:
    """The file ``name``, or None; ``web_jars``: the directory of the WebJars.

    Raises KintsugiError when a WebJar is missing.
    """
    if name in FOREIGN:
        body = _from_jar(web_jars, *FOREIGN[name])
    elif name in OWN:
        body = (STATIC / name).read_bytes()
    else:
        return None
    return Asset(body, TYPES[Path(name).suffix], hashlib.sha256(body).hexdigest()[:12])


def _from_jar(directory: Path, project: str, name: str) -> bytes:
    for jar in sorted(directory.glob(f"{project}-*.jar")):
        with zipfile.ZipFile(jar) as archive:
            for entry in archive.namelist():
                if entry.endswith(f"/{name}"):
                    return archive.read(entry)
    raise KintsugiError(f"{project} is not in {directory}: run `make setup`")
