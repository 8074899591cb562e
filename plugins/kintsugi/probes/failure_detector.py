"""When a node counts as failed: a pure state machine over probes, without a clock and without I/O.

1. Any OK resets everything: a node that answers its own protocol has not failed.
2. REFUSED proves that nobody listens at this moment. Three in a row, the first and the last at least two
   seconds apart, are DOWN. With a probe a second that is found about 3 s after the failure.
3. Everything else (TIMEOUT, WRONG, a mixture with REFUSED) is silence. Eight seconds of unbroken silence
   (four probes that each waited for two) are HUNG. A pause of up to 5 s (garbage collection, a busy disk) is
   never an incident.
4. Seconds in which the watch's own event loop was blocked do not count as silence. On a loaded host a missed reply is
   usually our own stall.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kintsugi.core.observation import Finding, ProbeResult, Symptom
from kintsugi.probes.protocols import Probe

HUNG_AFTER_S = 8.0
_EVIDENCE_LINES = 5
_CLOCK_SLOP_S = 0.01  # three probes, one a second, span 2 s only up to the resolution of the timer


@dataclass(frozen=True, slots=True)
class Rules:
    """The thresholds of the watch; times in seconds."""

    refusals: int = 3
    refused_span_s: float = 2.0
    silence_s: float = HUNG_AFTER_S


class FailureDetector:
    """What one watch remembers of one node; the rules are those of the module."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self._forget()

    def _forget(self) -> None:
        self._first: Probe | None = None
        self._last_end_s = 0.0
        self._silent_s = 0.0
        self._late_s = 0.0
        self._refused_starts_s: list[float] = []
        self._evidence: list[str] = []
        self._reported = False

    def observe(self, probe: Probe, now_s: float, late_s: float = 0.0) -> Finding | None:
        """Take the next probe; returns a Finding once, at the moment when the node counts as failed, else None.

        ``now_s``: monotonic seconds at which the probe ended. ``late_s``: for how many seconds since the end of the
        previous probe the watch itself was blocked.
        """
        if probe.answer is ProbeResult.OK:
            self._forget()
            return None
        started_s = now_s - probe.latency_s
        listened_since_s = started_s if self._first is None else self._last_end_s
        self._first = self._first or probe
        self._last_end_s = now_s
        self._late_s += late_s
        self._silent_s += max(0.0, now_s - listened_since_s - late_s)
        self._refused_starts_s = (
            [*self._refused_starts_s, started_s] if probe.answer is ProbeResult.REFUSED else []
        )
        self._note(probe, late_s)
        symptom = self._symptom()
        if symptom is None or self._reported:
            return None
        self._reported = True
        return self._finding(symptom, probe)

    def _symptom(self) -> Symptom | None:
        refused = self._refused_starts_s
        if len(refused) >= self.rules.refusals:
            span_s = refused[-1] - refused[0]
            if span_s >= self.rules.refused_span_s - _CLOCK_SLOP_S:
                return Symptom.DOWN
        return Symptom.HUNG if self._silent_s >= self.rules.silence_s else None

    def _note(self, probe: Probe, late_s: float) -> None:
        late = f" (watcher late by {late_s:.1f} s)" if late_s >= 0.5 else ""
        line = f"{probe.at:%H:%M:%S.%f}"[:-3] + f" {probe.answer}: {probe.detail}{late}"
        self._evidence = [*self._evidence, line][-_EVIDENCE_LINES:]

    def _finding(self, symptom: Symptom, probe: Probe) -> Finding:
        first_failed_at: datetime = self._first.at if self._first else probe.at
        return Finding(
            node=probe.target,
            symptom=symptom,
            first_failed_at=first_failed_at,
            detected_at=probe.at + timedelta(seconds=probe.latency_s),
            evidence=tuple(self._evidence),
            late_s=round(self._late_s, 1),
        )
