"""One rollout out of the database and back: its immutable spec and plan, and the reconciler's state.

``load`` locks the row: whoever drives a rollout holds it until the transaction ends. ``version`` rises
when what a person steers by changes (so that devices reporting do not void an operator's If-Match); ``revision`` rises
with every change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import msgspec
from sqlalchemy import update
from sqlmodel import Session, col

from bundles.digest import canonical_json
from control_plane.core.plan import Plan
from control_plane.core.rollout import Rollout, decode_state, encode_state
from control_plane.core.spec import RolloutSpec, decode_spec, encode_spec, spec_sha256
from control_plane.core.states import DeviceState
from control_plane.db.engine import ROW_LOCK
from control_plane.db.queries.rollouts import rollout_unknown
from control_plane.db.tables import DeviceExecution, RolloutRow

_OPEN_ENDED = (
    DeviceState.OFFERED,
    DeviceState.DEFERRED,
    DeviceState.ACCEPTED,
    DeviceState.DOWNLOADING,
    DeviceState.VERIFIED,
    DeviceState.STAGED,
    DeviceState.SHADOWING,
    DeviceState.ACTIVATING,
    DeviceState.PROBATION,
    DeviceState.UNRESPONSIVE,
    DeviceState.ROLLING_BACK,
)
"""States in which reports still matter after the rollout has ended (its tail, or an incomplete roll back)."""


@dataclass
class Stored:
    """A loaded rollout; ``state`` is replaced as events are applied, and written by ``save``."""

    row: RolloutRow
    state: Rollout

    @property
    def id(self) -> str:
        """The rollout's id."""
        return self.row.id

    @property
    def model_key(self) -> str:
        """``team/model``."""
        return f"{self.row.team}/{self.row.model}"

    @cached_property
    def spec(self) -> RolloutSpec:
        """What it was asked to do."""
        return read_spec(self.row.spec_json)

    @cached_property
    def plan(self) -> Plan:
        """Which device was planned for which wave; large, so read only where it is needed."""
        return Plan.decode(msgspec.json.decode(self.row.plan_json))


@lru_cache(maxsize=64)
def read_spec(spec_json: str) -> RolloutSpec:
    """Return the spec stored as ``spec_json``. It never changes, and heartbeats read it often."""
    return decode_spec(msgspec.json.decode(spec_json))


def load(session: Session, rollout: str) -> Stored:
    """Load and lock a rollout.

    Raises:
        NotFound: ``ROLLOUT_UNKNOWN``.
        Conflict: ``ROLLOUT_STATE_VERSION``.
    """
    row = session.get(RolloutRow, rollout, with_for_update=ROW_LOCK, populate_existing=True)
    if row is None:
        raise rollout_unknown(rollout)
    return Stored(row, decode_state(msgspec.json.decode(row.state_json)))


def insert(session: Session, spec: RolloutSpec, plan: Plan, state: Rollout, now_ms: int) -> Stored:
    """Store a new rollout; its device rows are the caller's."""
    team, _, model = spec.model.partition("/")
    row = RolloutRow(
        id=spec.rollout,
        team=team,
        model=model,
        bundle_sha256=spec.bundle_sha256,
        spec_json=canonical_json(encode_spec(spec)).decode(),
        spec_sha256=spec_sha256(spec),
        plan_json=canonical_json(plan.encode()).decode(),
        state_json=canonical_json(encode_state(state)).decode(),
        phase=state.phase.value,
        creator=spec.creator,
        created_ms=now_ms,
        updated_ms=now_ms,
        next_timer_ms=state.next_timer_ms,
    )
    session.add(row)
    session.flush()
    return Stored(row, state)


def save(session: Session, stored: Stored, now_ms: int) -> bool:
    """Write the state back if it changed; return whether it did."""
    row, state = stored.row, stored.state
    if state.version == row.revision:
        return False
    before = decode_state(msgspec.json.decode(row.state_json))
    if _steering(before) != _steering(state):
        row.version += 1
    row.revision = state.version
    row.state_json = canonical_json(encode_state(state)).decode()
    row.phase, row.reason = state.phase.value, state.reason
    row.approver = ", ".join(state.approvals)
    row.updated_ms, row.next_timer_ms = now_ms, state.next_timer_ms
    session.add(row)
    session.flush()
    if state.phase.is_terminal:
        _release_devices(session, stored)
    return True


def _steering(state: Rollout) -> tuple[Any, ...]:
    return state.phase, state.pause, state.wave, state.approvals, state.halt, state.current.phase


def _release_devices(session: Session, stored: Stored) -> None:
    session.exec(
        update(DeviceExecution)
        .where(
            col(DeviceExecution.rollout) == stored.id,
            col(DeviceExecution.active),
            col(DeviceExecution.state).not_in([state.value for state in _OPEN_ENDED]),
        )
        .values(active=False)
        .execution_options(synchronize_session="fetch")
    )
