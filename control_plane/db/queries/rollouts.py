"""Rollouts: the list, one with its waves, its devices, and why it stands where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlmodel import Session, col, select, tuple_

from control_plane.core.explain import Diagnosed, Story
from control_plane.core.explain import explain as explain_state
from control_plane.core.plan import Plan
from control_plane.core.rollout import Halt, Rollout, decode_state
from control_plane.core.states import DeviceState
from control_plane.db.queries.commands import diagnoses_of_rollout
from control_plane.db.queries.devices import ExecutionView, execution_view
from control_plane.db.queries.pages import cut
from control_plane.db.tables import DeviceExecution, RolloutRow
from control_plane.errors import NotFound

Key = tuple[int, str]


@dataclass(frozen=True)
class RolloutView:
    """One rollout in a list.

    Attributes:
        model: ``team/model``.
        release_version: version of the bundle it moves to.
        baseline_sha256: the bundle the fleet ran before, empty on a first release.
        wave: the current wave, from 1.
        waves: how many.
        devices: planned.
        engaged: took the offer, ever.
        confirmed: seen on the bundle throughout probation.
        failed: counted against the release.
        version: what If-Match must say.
        revision: rises with every change.
    """

    id: str
    team: str
    model: str
    bundle_sha256: str
    release_version: str
    baseline_sha256: str
    phase: str
    pause: str
    reason: str
    wave: int
    waves: int
    devices: int
    engaged: int
    confirmed: int
    failed: int
    creator: str
    approver: str
    created_ms: int
    updated_ms: int
    version: int
    revision: int


@dataclass(frozen=True)
class RolloutPage:
    """One page of rollouts, newest first; ``next`` is the cursor of the following page, empty at the end."""

    items: list[RolloutView]
    next: str


@dataclass(frozen=True)
class GateView:
    """One gate's answer at the last look."""

    gate: str
    verdict: str
    reason: str
    sentence: str
    numbers: dict[str, float | int | str]


@dataclass(frozen=True)
class WaveView:
    """One wave as it stands.

    Attributes:
        number: from 1.
        devices: in the wave.
        states: devices by state, those that are not zero.
        look: next look, 0 = not soaking.
        looks: in one soak.
    """

    number: int
    phase: str
    devices: int
    confirmed: int
    failed: int
    states: dict[str, int]
    soak_s: float
    min_resolved: int
    is_holdout: bool
    not_applicable: dict[str, str]
    began_ms: int
    soak_began_ms: int
    ended_ms: int
    look: int
    looks: int
    next_look_ms: int
    topped_up: int
    gates: list[GateView]


@dataclass(frozen=True)
class RolloutDetail:
    """A rollout, whole but for its device rows.

    Attributes:
        spec: as created.
        spec_sha256: what approvals are bound to.
        halt: why it was halted, None if it was not.
        excluded: selected devices the plan left out, by reason.
        notes: what the plan said about what its gates can prove.
        diagnoses: the first devices of each failure reason in each wave, asked for a support bundle.
    """

    rollout: RolloutView
    waves: list[WaveView]
    halt: Halt | None
    approvals: list[str]
    approvals_needed: int
    started_ms: int
    ended_ms: int
    next_timer_ms: int | None
    spec: dict[str, Any]
    spec_sha256: str
    excluded: dict[str, str]
    notes: list[str]
    shortest_s: float
    longest_s: float
    diagnoses: list[Diagnosed]


@dataclass(frozen=True)
class ExecutionPage:
    """One page of a rollout's devices, by id; ``next`` is the cursor of the following page, empty at the end."""

    items: list[ExecutionView]
    next: str


class _SpecHead(msgspec.Struct):
    version: str
    baseline_sha256: str = ""


_head = msgspec.json.Decoder(_SpecHead)


def list_rollouts(
    session: Session,
    *,
    teams: Sequence[str] | None = None,
    phase: str = "",
    model: str = "",
    after: Key | None = None,
    limit: int = 50,
) -> tuple[list[RolloutView], Key | None]:
    """Return a page of rollouts, newest first, and the key to go on from.

    Args:
        session: of ``Database.read``.
        teams: teams the reader may see; None for all.
        phase: keep only this phase, where not empty.
        model: ``team/model``; keep only its rollouts, where not empty.
        after: (created_ms, id) of the last rollout seen.
        limit: size of the page.
    """
    statement = select(RolloutRow)
    if phase:
        statement = statement.where(RolloutRow.phase == phase)
    if model:
        team, _, name = model.partition("/")
        statement = statement.where(RolloutRow.team == team, RolloutRow.model == name)
    if teams is not None:
        statement = statement.where(col(RolloutRow.team).in_(teams))
    if after is not None:
        statement = statement.where(tuple_(col(RolloutRow.created_ms), col(RolloutRow.id)) < after)
    order = (col(RolloutRow.created_ms).desc(), col(RolloutRow.id).desc())
    rows = session.exec(statement.order_by(*order).limit(limit + 1)).all()
    return cut([view_of(row) for row in rows], limit, lambda view: (view.created_ms, view.id))


def show_rollout(session: Session, rollout: str) -> RolloutDetail:
    """Return one rollout.

    Raises:
        NotFound: ``ROLLOUT_UNKNOWN``.
    """
    row = _row(session, rollout)
    state, plan = _state(row), Plan.decode(msgspec.json.decode(row.plan_json))
    return RolloutDetail(
        rollout=_view(row, state),
        waves=[_wave(state, index) for index in range(len(state.waves))],
        halt=state.halt,
        approvals=list(state.approvals),
        approvals_needed=state.policy.approvals_needed,
        started_ms=state.started_ms,
        ended_ms=state.ended_ms,
        next_timer_ms=state.next_timer_ms,
        spec=msgspec.json.decode(row.spec_json),
        spec_sha256=row.spec_sha256,
        excluded=dict(plan.excluded),
        notes=list(plan.notes),
        shortest_s=plan.shortest_s,
        longest_s=plan.longest_s,
        diagnoses=_diagnosed(session, rollout),
    )


def explain_rollout(session: Session, rollout: str) -> Story:
    """Return why it stands where it stands, with the numbers.

    Raises:
        NotFound: ``ROLLOUT_UNKNOWN``.
    """
    story = explain_state(_state(_row(session, rollout)))
    return replace(story, diagnoses=tuple(_diagnosed(session, rollout)))


def list_executions(
    session: Session, rollout: str, *, wave: int = 0, state: str = "", after: str | None = None, limit: int = 50
) -> tuple[list[ExecutionView], str | None]:
    """Return a page of a rollout's devices in the order of their ids, and the id to go on from.

    Args:
        session: of ``Database.read``.
        rollout: id.
        wave: keep only this wave, from 1; 0 = all.
        state: keep only this state, where not empty.
        after: id of the last device seen.
        limit: size of the page.

    Raises:
        NotFound: ``ROLLOUT_UNKNOWN``.
    """
    _row(session, rollout)
    statement = select(DeviceExecution).where(DeviceExecution.rollout == rollout)
    if wave:
        statement = statement.where(DeviceExecution.wave == wave - 1)
    if state:
        statement = statement.where(DeviceExecution.state == state)
    if after is not None:
        statement = statement.where(col(DeviceExecution.device) > after)
    rows = session.exec(statement.order_by(col(DeviceExecution.device)).limit(limit + 1)).all()
    return cut([execution_view(row) for row in rows], limit, lambda view: view.device)


def team_of(session: Session, rollout: str) -> str:
    """Return the team whose rollout it is.

    Raises:
        NotFound: ``ROLLOUT_UNKNOWN``.
    """
    return _row(session, rollout).team


def view_of(row: RolloutRow) -> RolloutView:
    """Return ``row`` as plain values."""
    return _view(row, _state(row))


def rollout_unknown(rollout: str) -> NotFound:
    """Return the error for an id no rollout has."""
    return NotFound(
        f"No rollout has the id {rollout!r}.", code="ROLLOUT_UNKNOWN", remedy="See `wavegate rollout list`."
    )


def _diagnosed(session: Session, rollout: str) -> list[Diagnosed]:
    return [
        Diagnosed(one.device, one.id, one.wave, one.failure, one.state, one.bundle_bytes)
        for one in diagnoses_of_rollout(session, rollout)
    ]


def _row(session: Session, rollout: str) -> RolloutRow:
    row = session.get(RolloutRow, rollout)
    if row is None:
        raise rollout_unknown(rollout)
    return row


def _state(row: RolloutRow) -> Rollout:
    return decode_state(msgspec.json.decode(row.state_json))


def _view(row: RolloutRow, state: Rollout) -> RolloutView:
    total, head = state.total, _head.decode(row.spec_json)
    return RolloutView(
        id=row.id,
        team=row.team,
        model=f"{row.team}/{row.model}",
        bundle_sha256=row.bundle_sha256,
        release_version=head.version,
        baseline_sha256=head.baseline_sha256,
        phase=row.phase,
        pause=state.pause.value,
        reason=row.reason,
        wave=state.wave + 1,
        waves=len(state.waves),
        devices=total.total,
        engaged=total.engaged + total.rolling_back + total.rolled_back,
        confirmed=sum(wave.installs.confirmed for wave in state.waves),
        failed=sum(wave.installs.failures for wave in state.waves),
        creator=row.creator,
        approver=row.approver,
        created_ms=row.created_ms,
        updated_ms=row.updated_ms,
        version=row.version,
        revision=row.revision,
    )


def _wave(state: Rollout, index: int) -> WaveView:
    wave = state.waves[index]
    counts = {name.value: wave.tally.of(name) for name in DeviceState}
    return WaveView(
        number=index + 1,
        phase=wave.phase.value,
        devices=wave.tally.total,
        confirmed=wave.installs.confirmed,
        failed=wave.installs.failures,
        states={name: count for name, count in counts.items() if count},
        soak_s=wave.soak_s,
        min_resolved=wave.min_resolved,
        is_holdout=wave.is_holdout,
        not_applicable=dict(wave.not_applicable),
        began_ms=wave.began_ms,
        soak_began_ms=wave.soak_began_ms,
        ended_ms=wave.ended_ms,
        look=wave.look,
        looks=state.policy.looks,
        next_look_ms=wave.next_look_ms,
        topped_up=wave.topped_up,
        gates=[
            GateView(one.gate, one.verdict.value, one.reason, one.sentence, dict(one.numbers)) for one in wave.results
        ],
    )
