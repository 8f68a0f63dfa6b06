"""Judges what is complete and not judged yet: one transaction a series, so that one bad series stops no other."""

from __future__ import annotations

from collections.abc import Callable

from bundles.wire.messages import Profile
from control_plane.db.engine import Database
from control_plane.services import drift

WATERMARK_REPORTS = 2
"""A bucket counts as complete this many report intervals after it ended."""


class DriftJudge:
    """The drift worker.

    Args:
        db: the database.
        load: returns a baseline file by its sha256.
        bucket_s: length of a roll-up bucket.
        profile: timing; its ``report_s`` sets the watermark.
        now_ms: server clock.
    """

    def __init__(
        self,
        db: Database,
        load: Callable[[str], bytes],
        bucket_s: float,
        profile: Profile,
        now_ms: Callable[[], int],
    ) -> None:
        self._db, self._now_ms = db, now_ms
        self._baselines = drift.Baselines(load)
        self._bucket_ms = int(bucket_s * 1000)
        self._watermark_ms = int(WATERMARK_REPORTS * profile.report_s * 1000)

    def round(self) -> None:
        """Judge every series that is due."""
        now_ms = self._now_ms()
        before_ms = now_ms - self._watermark_ms
        with self._db.read() as session:
            due = drift.due_series(session, before_ms - self._bucket_ms + 1)
        for series in due:
            baseline = self._baselines.get(series.baseline_id)
            if baseline is None:
                continue
            with self._db.write() as session:
                drift.judge(session, series, baseline, bucket_ms=self._bucket_ms, before_ms=before_ms, now_ms=now_ms)
