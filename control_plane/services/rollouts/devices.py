"""Device rows of a rollout: moving one and telling the reconciler so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from bundles.wire.messages import DesiredModel
from control_plane.core.execution import Execution, deadline_ms, decode_execution, encode_execution
from control_plane.core.plan import Plan
from control_plane.core.policy import Deadlines
from control_plane.core.rollout import DeviceMoved
from control_plane.core.states import DeviceState
from control_plane.db.tables import DeviceExecution, Release


@dataclass
class Moves:
    """Moves of many devices, gathered into one event for each (wave, stratum, previous, new, reason)."""

    at_ms: int
    counts: Counter[tuple[int, str, DeviceState, DeviceState, str]] = field(default_factory=Counter)
    devices: dict[tuple[int, str, DeviceState, DeviceState, str], str] = field(default_factory=dict)

    def add(self, row: DeviceExecution, previous: DeviceState, now: Execution) -> None:
        """Note that ``row`` moved; a move to the same state is none."""
        if previous is not now.state:
            key = (row.wave, row.stratum, previous, now.state, now.reason)
            self.counts[key] += 1
            self.devices[key] = row.device

    def events(self) -> list[DeviceMoved]:
        """Return what happened, in the order it was noted."""
        return [
            DeviceMoved(
                wave=wave,
                stratum=stratum,
                previous=previous,
                new=new,
                at_ms=self.at_ms,
                reason=reason,
                device=self.devices[key] if count == 1 else "",
                count=count,
            )
            for key, count in self.counts.items()
            for wave, stratum, previous, new, reason in [key]
        ]


def insert_rows(session: Session, rollout: str, bundle_sha256: str, plan: Plan, now_ms: int) -> None:
    """Store a QUEUED row for every planned device."""
    strata = dict(plan.device_strata)
    for wave in plan.waves:
        for device in wave.device_ids:
            row = DeviceExecution(rollout=rollout, device=device, wave=wave.index, stratum=strata[device])
            put(row, Execution(target_sha256=bundle_sha256), None, now_ms)
            session.add(row)
    session.flush()


def rows_of(
    session: Session, rollout: str, waves: Iterable[int], states: Sequence[DeviceState] = ()
) -> list[DeviceExecution]:
    """Return the rows of ``waves``, by device id, of ``states`` only where some are named."""
    statement = select(DeviceExecution).where(
        col(DeviceExecution.rollout) == rollout, col(DeviceExecution.wave).in_(list(waves))
    )
    if states:
        statement = statement.where(col(DeviceExecution.state).in_([state.value for state in states]))
    return list(session.exec(statement.order_by(col(DeviceExecution.device))))


def execution_of(row: DeviceExecution) -> Execution:
    """Return what the core knows of ``row``."""
    return decode_execution(msgspec.json.decode(row.execution_json))


def put(row: DeviceExecution, execution: Execution, deadlines: Deadlines | None, now_ms: int) -> None:
    """Write ``execution`` into ``row``; the columns are for queries and pages."""
    row.execution_json = canonical_json(encode_execution(execution)).decode()
    row.state, row.reason, row.generation = execution.state.value, execution.reason, execution.generation
    row.previous_sha256 = execution.previous_sha256
    row.deadline_ms = deadline_ms(execution, deadlines) if deadlines else None
    row.updated_ms = now_ms


def previous_models(row: DeviceExecution) -> dict[str, DesiredModel]:
    """Return what the device was asked to run before this rollout touched it."""
    return msgspec.json.decode(row.previous_json, type=dict[str, DesiredModel])


def desired_model(release: Release) -> DesiredModel:
    """Return what a desired document says to ask for ``release``."""
    return DesiredModel(
        target=f"{release.team}/{release.model}/{release.version}/bundle.json",
        sha256=release.sha256,
        length=release.length,
        counter=release.release_counter,
    )
