"""Per-device counters out of the database, as the samples gates compare.

Canary: every device of the rollout's exposed waves, by its windows of the new bundle. Control: every other device, by
its windows of the baseline over the same buckets. A device is in one arm only. A bucket that began before ``since_ms``
and reaches past it counts, for both arms alike.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlmodel import Session, col, select

from bundles.sketch.form import LatencyHistogram
from bundles.sketch.merge import merge_latency
from control_plane.core.cohorts import stratum_of
from control_plane.core.evidence import DeviceSample, WaveEvidence, gather
from control_plane.core.rollout import RequestJudgement
from control_plane.db.tables import Device, DeviceExecution, DeviceWindow
from control_plane.services.rollouts.stored import Stored


def gather_evidence(
    session: Session, stored: Stored, request: RequestJudgement, *, bucket_ms: int, now_ms: int
) -> WaveEvidence:
    """Return the evidence that ``request`` asks for."""
    spec, state = stored.spec, stored.state
    rows = session.exec(
        select(DeviceExecution.device, DeviceExecution.stratum).where(
            col(DeviceExecution.rollout) == stored.id, col(DeviceExecution.wave).in_(state.exposed)
        )
    )
    exposed = dict(rows.all())
    windows = session.exec(
        select(DeviceWindow).where(
            col(DeviceWindow.model) == stored.model_key,
            col(DeviceWindow.bucket_ms) > request.since_ms - bucket_ms,
            col(DeviceWindow.bundle_sha256).in_([sha for sha in (spec.bundle_sha256, spec.baseline_sha256) if sha]),
        )
    ).all()
    canary: dict[str, list[DeviceWindow]] = {}
    control: dict[str, list[DeviceWindow]] = {}
    for window in windows:
        if window.bundle_sha256 == spec.bundle_sha256:
            if window.device in exposed:
                canary.setdefault(window.device, []).append(window)
        elif window.device not in exposed:
            control.setdefault(window.device, []).append(window)
    strata = _strata(session, spec.strata, control)
    return gather(
        wave=request.wave,
        look=request.look,
        at_ms=now_ms,
        since_ms=request.since_ms,
        canary=[_sample(exposed[device], items) for device, items in canary.items()],
        control=[_sample(strata[device], items) for device, items in control.items() if device in strata],
        latency_p95_cap_ms=spec.policy.caps.latency_p95_ms,
    )


def _strata(session: Session, keys: tuple[str, ...], devices: Iterable[str]) -> dict[str, str]:
    wanted = set(devices)
    rows = session.exec(select(Device.id, Device.hardware, Device.labels_json, Device.cohort)).all()
    return {
        device: stratum_of(keys, hardware, {**msgspec.json.decode(labels, type=dict[str, str]), "cohort": cohort})
        for device, hardware, labels, cohort in rows
        if device in wanted
    }


def _sample(stratum: str, windows: list[DeviceWindow]) -> DeviceSample:
    classes: list[int] = []
    latency = LatencyHistogram()
    for window in windows:
        counts = msgspec.json.decode(window.classes_json, type=list[int])
        classes += [0] * (len(counts) - len(classes))
        for index, count in enumerate(counts):
            classes[index] += count
        latency = merge_latency(latency, msgspec.json.decode(window.latency_json, type=LatencyHistogram))
    return DeviceSample(
        stratum=stratum,
        ok=sum(window.ok for window in windows),
        errors=sum(window.errors for window in windows),
        classes=tuple(classes),
        latency_offset=latency.offset,
        latency_counts=tuple(latency.counts),
    )
