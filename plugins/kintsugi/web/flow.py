"""The flow S3 → Kafka → Spark → Cassandra as figures and words. Pure.

Rates are slopes between samples of offsets: messages produced a second, and messages stored a second. Freshness is how
long the oldest message that is not stored has waited. It is the time since the end of the topic was where the stream
is now, interpolated linearly between samples (the time lag of kafka-lag-exporter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kintsugi.db.flow_samples import FlowSample
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import Severity
from kintsugi.web.sources import Files, StreamSnapshot

RATE_OVER = timedelta(seconds=60)
LATE_S = 30.0
SICK_S = 120.0


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream now. Rates in messages a second, ``lag`` in messages, ``fresh_s`` in seconds; None: unknown.

    ``since``: the last moment at which nothing waited, UTC.
    """

    level: Severity
    sentence: str
    advice: str
    running: bool | None = None
    in_rate: float | None = None
    out_rate: float | None = None
    lag: int | None = None
    fresh_s: float | None = None
    since: datetime | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the flow. ``level`` as in `Stream`; ``figure`` is its main figure, ``words`` the rest."""

    name: str
    level: Severity
    figure: str
    words: str


def assess_stream(reading: CachedValue[StreamSnapshot]) -> Stream:
    """The state of the stream, from the newest sample and the samples before it."""
    samples = reading.value.samples if reading.value else ()
    if not samples:
        why = reading.error or "no reading yet"
        return Stream(
            Severity.UNKNOWN, f"the state of the stream is not known: {why}.", "Wait a few seconds."
        )
    last, measured = samples[-1], [s for s in samples if s.committed is not None and s.produced is not None]
    fresh = time_lag_s(measured) if measured else None
    figures = {
        "running": last.running,
        "in_rate": rate_of([(s.at, s.produced) for s in measured if s.produced is not None]),
        "out_rate": rate_of([(s.at, s.committed) for s in measured if s.committed is not None]),
        "lag": last.lag,
        "fresh_s": fresh,
        "since": last.at - timedelta(seconds=fresh) if fresh else None,
        "at": last.at,
    }
    level, sentence, advice = _assess_record(reading.value, *_assess_sample(last, fresh))
    return Stream(level, sentence, advice, **figures)  # type: ignore[arg-type]


def _assess_record(
    seen: StreamSnapshot | None, level: Severity, sentence: str, advice: str
) -> tuple[Severity, str, str]:
    """Losses, waits and rejected messages on record have precedence, unless the offsets are worse."""
    if seen is None or level is Severity.BAD:
        return level, sentence, advice
    open_losses = [loss for loss in seen.record.losses if not loss.settled]
    if open_losses:
        count = sum(loss.messages for loss in open_losses)
        return (
            Severity.BAD,
            f"Kafka deleted {count:,} messages before they were stored ({open_losses[0]}).",
            "`replay_trades` sends the affected files again automatically. `make reconcile` lists the missing trades.",
        )
    if seen.record.waits:
        return (
            Severity.NOTE,
            f"{seen.record.waits[0]}.",
            "It continues when the stream has stored them.",
        )
    if level is Severity.WELL and (refused := seen.record.refused):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(refused.items()))
        return (
            Severity.NOTE,
            f"{sum(refused.values()):,} messages since yesterday were not trades ({reasons}).",
            "Trades flow. Another producer writes to the topic. The messages are in `dead-letter/stream/` in S3.",
        )
    return level, sentence, advice


def _assess_sample(last: FlowSample, fresh_s: float | None) -> tuple[Severity, str, str]:
    if last.lag is None:
        return (
            Severity.NOTE,
            "Kafka does not return the offsets of the stream.",
            "If the brokers below answer, wait a few seconds.",
        )
    if fresh_s is not None and fresh_s > SICK_S:
        waits = f"the oldest trade that is not stored has waited {fresh_s:.0f} s ({last.lag:,} wait)."
        return (
            Severity.BAD,
            f"Trades arrive, but {waits}",
            "`watch_flow` restarts the stream if it stalls. See its runbook in Airflow.",
        )
    if last.running is False:
        return (
            Severity.NOTE,
            "the streaming application has no cores.",
            "`stream_trades` and `watch_flow` restart it.",
        )
    if fresh_s is not None and fresh_s > LATE_S:
        return (
            Severity.NOTE,
            f"trades are stored {fresh_s:.0f} s late ({last.lag:,} wait).",
            "It is catching up.",
        )
    return Severity.WELL, "Trades flow.", "Nothing to do."


def build_stages(now: Stream, files: CachedValue[Files], reading: CachedValue[StreamSnapshot]) -> list[Stage]:
    """The four stages in order."""
    waiting = files.value
    old = f" (as of {files.at:%H:%M:%S} UTC)" if files.error and files.at else ""
    s3_level = Severity.UNKNOWN if files.error or waiting is None else Severity.WELL
    s3 = Stage(
        "S3",
        s3_level,
        "?" if waiting is None else f"{waiting.pending:,}",
        f"{files.error}{old}" if files.error else "files waiting",
    )
    lost = reading.error is not None or now.at is None
    kafka_level = Severity.UNKNOWN if lost or now.lag is None else Severity.WELL
    kafka_words = "trades a second in" if now.lag is not None else "no answer"
    spark_level = {True: Severity.WELL, False: Severity.BAD, None: Severity.UNKNOWN}[now.running]
    spark_words = "trades behind" if now.running else "has no cores" if now.running is False else "no answer"
    return [
        s3,
        Stage("Kafka", kafka_level, format_rate(now.in_rate), kafka_words),
        Stage("Spark", spark_level, "?" if now.lag is None else f"{now.lag:,}", spark_words),
        Stage(
            "Cassandra",
            now.level if not lost else Severity.UNKNOWN,
            format_rate(now.out_rate),
            _describe_freshness(now),
        ),
    ]


def _describe_freshness(now: Stream) -> str:
    if now.fresh_s is None:
        return "trades a second stored"
    return (
        f"trades a second stored, {now.fresh_s:.0f} s after they arrived"
        if now.fresh_s
        else ("trades a second stored, none waits")
    )


def format_rate(value: float | None) -> str:
    """A rate as text: no decimals from ten on."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def rate_of(points: Sequence[tuple[datetime, int]]) -> float | None:
    """Units a second over the last minute of ``points`` (times ascending); None with fewer than two."""
    recent = [point for point in points if points[-1][0] - point[0] <= RATE_OVER]
    if len(recent) < 2:
        return None
    (start, low), (end, high) = recent[0], recent[-1]
    seconds = (end - start).total_seconds()
    return max(0.0, (high - low) / seconds) if seconds > 0 else None


def time_lag_s(samples: Sequence[FlowSample]) -> float:
    """How long the oldest message that is not stored has waited, in seconds; 0 when none waits.

    ``samples``: with known offsets, oldest first, not empty. If the first sample already had messages beyond the
    stored offset, the result is the time since the first sample, which is a lower bound.
    """
    last = samples[-1]
    stored = last.committed or 0
    if last.lag == 0:
        return 0.0
    after = last
    for sample in reversed(samples):
        produced = sample.produced or 0
        if produced <= stored:
            rise = (after.produced or 0) - produced
            share = (stored - produced) / rise if rise else 0.0
            reached = sample.at + (after.at - sample.at) * share
            return (last.at - reached).total_seconds()
        after = sample
    return (last.at - samples[0].at).total_seconds()


def chart_series(samples: Sequence[FlowSample]) -> dict[str, list[float | None]]:
    """The data of the charts: ``at`` (seconds since 1970), ``lag``, ``in`` and ``out`` (messages a second).

    A rate has the time of the later of its two samples; unknown readings leave a gap.
    """
    drawn: dict[str, list[float | None]] = {"at": [], "lag": [], "in": [], "out": []}
    before: FlowSample | None = None
    for sample in samples:
        drawn["at"].append(round(sample.at.timestamp(), 1))
        drawn["lag"].append(sample.lag)
        drawn["in"].append(_rate_between(before, sample, "produced"))
        drawn["out"].append(_rate_between(before, sample, "committed"))
        before = sample
    return drawn


def _rate_between(before: FlowSample | None, sample: FlowSample, what: str) -> float | None:
    if before is None:
        return None
    low, high = getattr(before, what), getattr(sample, what)
    seconds = (sample.at - before.at).total_seconds()
    if low is None or high is None or seconds <= 0 or seconds > 120:
        return None
    return round(max(0.0, float(high - low) / seconds), 2)
