"""For all tests: nothing that the user of this machine has configured is told anything by a test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("kintsugi", deadline=None)
settings.load_profile("kintsugi")

os.environ["KINTSUGI_CONNECTIONS"] = "/nonexistent/connections.json"
# An installation that runs here has certificates, and a client that finds them uses them.
os.environ["KINTSUGI_STATE"] = str(Path(tempfile.gettempdir()) / f"kintsugi-tests-{os.getpid()}-none")
for _name in list(os.environ):
    if _name.startswith(("AIRFLOW_CONN_KINTSUGI_", "OTEL_", "HONEYCOMB_")):
        del os.environ[_name]
