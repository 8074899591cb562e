"""Every fault that can be injected, by its name in the fault matrix."""

from __future__ import annotations

from collections.abc import Mapping

from kintsugi.chaos.faults import SERVER_FAULTS, Fault
from kintsugi.chaos.gray_faults import GRAY_FAULTS

FAULTS: Mapping[str, Fault] = {fault.kind: fault for fault in (*SERVER_FAULTS, *GRAY_FAULTS)}
