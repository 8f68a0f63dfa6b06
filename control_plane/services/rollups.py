"""Adding fresh windows to the roll-ups, inside the transaction that inserted their raw rows.

Merging is exact and only ever sees windows this transaction stored, so a replayed spool changes no bit. Upserts go in
sorted key order, so that two writers cannot wait for one another in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlmodel import Session, select

from bundles.digest import canonical_json
from bundles.errors import MessageRefused
from bundles.sketch.form import LatencyHistogram, Window
from bundles.sketch.merge import merge_latency, merge_windows
from control_plane.db.tables import Device, DeviceWindow, SketchRollup

MAX_SKEW_MS = 10 * 60 * 1000
"""Windows of a device whose clock is further from the server's than this are bucketed by the time of their arrival.
How far it is shows in ``sent_ms``; a row that is sent again says when it was sent first, and counts as far off then."""
MAX_AGE_MS = 30 * 24 * 3_600_000
"""A window that began longer ago than this began under a clock that was not set."""


@dataclass(frozen=True)
class FreshWindow:
    """A window whose raw row this transaction inserted."""

    device: str
    window: Window
    sent_ms: int


def add_windows(session: Session, fresh: Sequence[FreshWindow], *, bucket_ms: int, now_ms: int) -> None:
    """Add ``fresh`` to the per-device counters and to the cohorts' sketches.

    Args:
        session: of ``Database.write``.
        fresh: windows inserted by this transaction.
        bucket_ms: length of a bucket.
        now_ms: server clock.
    """
    if not fresh:
        return
    cohorts = _cohorts(session, {item.device for item in fresh})
    counters: dict[tuple[str, str, str, int], list[Window]] = {}
    sketches: dict[tuple[str, str, str, str, int], list[FreshWindow]] = {}
    for item in fresh:
        window = item.window
        bucket = _bucket(item, bucket_ms, now_ms)
        counters.setdefault((item.device, window.model, window.bundle_sha256, bucket), []).append(window)
        if window.baseline_id and window.columns:
            cohort = cohorts.get(item.device, "default")
            key = (window.model, window.bundle_sha256, window.baseline_id, cohort, bucket)
            sketches.setdefault(key, []).append(item)
    for counter_key, windows in sorted(counters.items()):
        _add_counters(session, counter_key, windows)
    for sketch_key, items in sorted(sketches.items(), key=lambda entry: entry[0]):
        _add_sketches(session, sketch_key, items)


def _add_counters(session: Session, key: tuple[str, str, str, int], windows: list[Window]) -> None:
    row = session.get(DeviceWindow, key, with_for_update=True)
    if row is None:
        device, model, bundle, bucket = key
        row = DeviceWindow(device=device, model=model, bundle_sha256=bundle, bucket_ms=bucket)
    classes = msgspec.json.decode(row.classes_json, type=list[int])
    latency = msgspec.json.decode(row.latency_json, type=LatencyHistogram)
    for window in windows:
        row.windows += 1
        row.ok += window.ok
        row.errors += sum(window.errors.values())
        row.rejects += sum(window.rejects.values())
        width = max(len(classes), len(window.classes))
        classes = [
            (classes[i] if i < len(classes) else 0) + (window.classes[i] if i < len(window.classes) else 0)
            for i in range(width)
        ]
        latency = merge_latency(latency, window.latency)
    row.classes_json = canonical_json(classes).decode()
    row.latency_json = canonical_json(latency).decode()
    session.add(row)


def _add_sketches(session: Session, key: tuple[str, str, str, str, int], items: list[FreshWindow]) -> None:
    row = session.get(SketchRollup, key, with_for_update=True)
    merged = msgspec.msgpack.decode(row.body, type=Window) if row else None
    added = 0
    for item in items:
        try:
            merged = merge_windows(merged, item.window) if merged else item.window
        except MessageRefused:
            continue  # its raw row is kept; a window of another shape must not spoil the cohort's sum
        added += 1
    if merged is None:
        return
    if row is None:
        model, bundle, baseline, cohort, bucket = key
        row = SketchRollup(
            model=model, bundle_sha256=bundle, baseline_id=baseline, cohort=cohort, bucket_ms=bucket, body=b""
        )
    row.windows += added
    row.body = msgspec.msgpack.encode(merged)
    session.add(row)


def _cohorts(session: Session, devices: set[str]) -> dict[str, str]:
    rows = session.exec(select(Device.id, Device.cohort).where(Device.id.in_(sorted(devices))))  # type: ignore[attr-defined]
    return dict(rows.all())


def _bucket(item: FreshWindow, bucket_ms: int, now_ms: int) -> int:
    start_ms = item.window.start_ms
    is_right = abs(now_ms - item.sent_ms) <= MAX_SKEW_MS and now_ms - MAX_AGE_MS <= start_ms <= now_ms + MAX_SKEW_MS
    at = start_ms if is_right else now_ms
    return at - at % bucket_ms
