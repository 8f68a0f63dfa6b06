"""Judges the cohorts' roll-ups against their signed baselines and keeps the alerts that follow.

Level-triggered: it looks at the buckets that are complete and newer than the last one judged, so a restart judges
nothing twice and misses nothing. Decisions are ``core.drift``'s and ``core.alerts``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from bundles.errors import WavegateError
from bundles.sketch.baseline import parse_baseline
from bundles.sketch.form import Baseline, Window
from control_plane.core.drift import DriftState, MergedWindow, Verdict, findings, step
from control_plane.db.tables import DriftStateRow, SketchRollup
from control_plane.services import alerts

LoadBaseline = Callable[[str], bytes]
"""Returns the baseline file with that sha256."""


@dataclass(frozen=True)
class Series:
    """One model, bundle and baseline in one cohort: what is judged together."""

    model: str
    bundle_sha256: str
    baseline_id: str
    cohort: str


class Baselines:
    """Parsed baselines by id; they never change, so they are kept. Not thread-safe: the drift worker owns it."""

    def __init__(self, load: LoadBaseline) -> None:
        self._load = load
        self._parsed: dict[str, Baseline | None] = {}

    def get(self, baseline_id: str) -> Baseline | None:
        """Return the baseline; None where it is not stored or cannot be read, which nothing may be judged against."""
        if baseline_id not in self._parsed:
            try:
                self._parsed[baseline_id] = parse_baseline(self._load(baseline_id))
            except WavegateError:
                self._parsed[baseline_id] = None
        return self._parsed[baseline_id]


def due_series(session: Session, before_ms: int) -> list[Series]:
    """Return the series that have a bucket starting before ``before_ms`` which was not judged yet."""
    newest = select(
        SketchRollup.model, SketchRollup.bundle_sha256, SketchRollup.baseline_id, SketchRollup.cohort
    ).where(col(SketchRollup.bucket_ms) < before_ms)
    judged = {
        (row.model, row.bundle_sha256, row.baseline_id, row.cohort): row.judged_ms
        for row in session.exec(select(DriftStateRow))
    }
    due = []
    for key in sorted(set(session.exec(newest.distinct()).all())):
        latest = session.exec(
            select(SketchRollup.bucket_ms)
            .where(
                SketchRollup.model == key[0],
                SketchRollup.bundle_sha256 == key[1],
                SketchRollup.baseline_id == key[2],
                SketchRollup.cohort == key[3],
                col(SketchRollup.bucket_ms) < before_ms,
            )
            .order_by(col(SketchRollup.bucket_ms).desc())
            .limit(1)
        ).first()
        if latest is not None and latest >= judged.get(key, -1):
            due.append(Series(*key))
    return due


def judge(session: Session, series: Series, baseline: Baseline, *, bucket_ms: int, before_ms: int, now_ms: int) -> None:
    """Judge the complete buckets of ``series``, in order, and keep what follows.

    Args:
        session: of ``Database.write``.
        series: what to judge.
        baseline: the signed reference.
        bucket_ms: length of a bucket.
        before_ms: buckets that end after this are not complete yet.
        now_ms: server clock.
    """
    key = (series.model, series.bundle_sha256, series.baseline_id, series.cohort)
    row = session.get(DriftStateRow, key, with_for_update=True)
    state = DriftState(series.baseline_id)
    if row is None:
        row = DriftStateRow(
            model=series.model,
            bundle_sha256=series.bundle_sha256,
            baseline_id=series.baseline_id,
            cohort=series.cohort,
        )
    else:
        state = msgspec.json.decode(row.state_json, type=DriftState)
    buckets = session.exec(
        select(SketchRollup)
        .where(
            SketchRollup.model == series.model,
            SketchRollup.bundle_sha256 == series.bundle_sha256,
            SketchRollup.baseline_id == series.baseline_id,
            SketchRollup.cohort == series.cohort,
            col(SketchRollup.bucket_ms) >= row.judged_ms,
            col(SketchRollup.bucket_ms) + bucket_ms <= before_ms,
        )
        .order_by(col(SketchRollup.bucket_ms))
    ).all()
    for bucket in buckets:
        window = msgspec.msgpack.decode(bucket.body, type=Window)
        end_ms = bucket.bucket_ms + bucket_ms
        state, verdict = step(state, MergedWindow.of(window, bucket.bucket_ms, end_ms), baseline)
        row.judged_ms = end_ms
        if verdict.is_evaluated:
            row.verdict_json = canonical_json(verdict).decode()
            _tell_alerts(session, series, baseline.version, verdict, now_ms)
    row.state_json = canonical_json(state).decode()
    session.add(row)


def _tell_alerts(session: Session, series: Series, version: str, verdict: Verdict, now_ms: int) -> None:
    for finding in findings(verdict, model=series.model, version=version, cohort=series.cohort):
        columns = [column for column in verdict.columns if column.name == finding.labels.get("feature")]
        alerts.observe(session, finding, room="system:drift", detail={"verdict": columns}, now_ms=now_ms)
