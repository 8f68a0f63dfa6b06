"""The fleet as the planner sees it: each enrolled device with what it runs and which variant it would take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from bundles.manifest import BundleFile, Manifest, Variant, parse_manifest
from bundles.variants import pick_variant
from bundles.wire.messages import Profile
from control_plane.core.plan import PlanDevice
from control_plane.core.room import Room
from control_plane.core.states import RolloutPhase
from control_plane.db.queries.devices import MISSED_BEATS
from control_plane.db.tables import Desired, Device, DeviceExecution, Release, RolloutRow


class _Model(msgspec.Struct):
    sha256: str = ""


class _Heartbeat(msgspec.Struct):
    models: dict[str, _Model] = {}
    runtimes: list[str] = []
    disk_free_bytes: int | None = None
    disk_reserve_bytes: int | None = None
    memory_available_bytes: int | None = None


_heartbeat = msgspec.json.Decoder(_Heartbeat)
_profile = msgspec.json.Decoder(Profile)
_labels = msgspec.json.Decoder(dict[str, str])


def plan_devices(session: Session, model_key: str, manifest: Manifest, now_ms: int) -> list[PlanDevice]:
    """Return every enrolled device for a rollout of ``model_key`` to the bundle of ``manifest``.

    A device that never reported has named no runtime yet; it is planned by its hardware alone and decides for itself.
    """
    busy = _busy(session, model_key)
    every_runtime = [variant.runtime for variant in manifest.variants]
    columns: list[Any] = [
        Device.id,
        Device.hardware,
        Device.labels_json,
        Device.cohort,
        Device.last_seen_ms,
        Device.reported_json,
        Desired.profile_json,
    ]
    rows = session.execute(
        select(*columns)
        .join(Desired, col(Desired.device) == col(Device.id), isouter=True)
        .where(col(Device.state) == "enrolled")
        .order_by(col(Device.id))
    )
    devices = []
    held = _Held(session)
    for device, hardware, labels_json, cohort, seen_ms, reported, profile in rows:
        said = _heartbeat.decode(reported) if reported else _Heartbeat()
        variant = pick_variant(manifest, hardware, said.runtimes if reported else every_runtime)
        patience_ms = MISSED_BEATS * _profile.decode(profile or "{}").heartbeat_s * 1000
        labels = {**_labels.decode(labels_json), "cohort": cohort}
        current = said.models[model_key].sha256 if model_key in said.models else ""
        devices.append(
            PlanDevice(
                id=device,
                hardware=hardware,
                labels=tuple(sorted(labels.items())),
                online=seen_ms is not None and now_ms - seen_ms <= patience_ms,
                current_sha256=current,
                variant=variant.id if variant else "",
                busy_with=busy.get(device, ""),
                room=_room(manifest, variant, held.files(current), said),
            )
        )
    return devices


class _Held:
    """The files of the releases that devices run, each manifest read once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, frozenset[str]] = {"": frozenset()}

    def files(self, release: str) -> frozenset[str]:
        """Return the digests of a release's files; none where the registry does not know it."""
        if release not in self._known:
            row = self._session.get(Release, release)
            files: Iterable[BundleFile] = parse_manifest(row.manifest_json.encode()).files if row else ()
            self._known[release] = frozenset(entry.sha256 for entry in files)
        return self._known[release]


def _room(manifest: Manifest, variant: Variant | None, held: frozenset[str], said: _Heartbeat) -> Room:
    """Say what the update needs on a device, and what the device has, as its last heartbeat told."""
    wanted = {
        entry.sha256: entry.length
        for entry in manifest.files
        if variant is not None and (entry.role != "model" or entry.path == variant.file)
    }
    free, reserve = said.disk_free_bytes, said.disk_reserve_bytes
    return Room(
        disk_needed_bytes=sum(length for sha256, length in wanted.items() if sha256 not in held),
        disk_left_bytes=None if free is None else free - (reserve or 0),
        memory_needed_bytes=sum(e.length for e in manifest.files if variant is not None and e.path == variant.file),
        memory_left_bytes=said.memory_available_bytes,
    )


def _busy(session: Session, model_key: str) -> dict[str, str]:
    team, _, model = model_key.partition("/")
    rows = session.exec(
        select(DeviceExecution.device, DeviceExecution.rollout)
        .join(RolloutRow, col(RolloutRow.id) == col(DeviceExecution.rollout))
        .where(
            RolloutRow.team == team,
            RolloutRow.model == model,
            col(RolloutRow.phase).in_([phase.value for phase in RolloutPhase if not phase.is_terminal]),
            col(DeviceExecution.active),
        )
    )
    return dict(rows.all())
