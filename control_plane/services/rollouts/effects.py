"""Carrying out what the reconciler decided: one handler for each effect, found in one table.

Everything happens in the caller's transaction, rows and desired documents alike; a handler returns the events that
follow. Each may run twice without harm: it looks at the rows as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from bundles.wire.messages import DesiredModel
from control_plane.core.evidence import encode_evidence
from control_plane.core.execution import Execution, expire, offer, roll_back, withdraw
from control_plane.core.gates import judge
from control_plane.core.rollout import (
    Effect,
    Event,
    ExpireDevices,
    GateJudged,
    Notify,
    OfferWave,
    Record,
    RequestJudgement,
    RollBack,
    TopUpWave,
    WithdrawOffers,
)
from control_plane.core.states import FAILURES, IN_PROGRESS, NOT_ON_TRIAL, DeviceState
from control_plane.db.tables import Device, DeviceExecution, Outbox, Release
from control_plane.services import audit, desired, diagnoses
from control_plane.services.revocations import all_forbidden, check_clear
from control_plane.services.rollouts.devices import Moves, desired_model, execution_of, previous_models, put, rows_of
from control_plane.services.rollouts.evidence import gather_evidence
from control_plane.services.rollouts.stored import Stored
from control_plane.services.rollouts.takeover import ENROLLED, take_over, with_state

SYSTEM = "system:reconciler"


@dataclass
class Run:
    """One transaction's work on one rollout.

    Attributes:
        session: of ``Database.write``.
        stored: the rollout, locked.
        now_ms: server clock.
        bucket_ms: length of a roll-up bucket.
        evidence: what judgements of this run rested on, by digest.
    """

    session: Session
    stored: Stored
    now_ms: int
    bucket_ms: int
    evidence: dict[str, dict[str, object]] = field(default_factory=dict)

    @cached_property
    def forbidden(self) -> frozenset[str]:
        """Digests of revoked bundles."""
        return frozenset(all_forbidden(self.session))

    def ask(self, device: str, models: dict[str, DesiredModel], *, canary: bool) -> int:
        """Set what ``device`` is asked to run; return the generation."""
        profile = self.stored.spec.profile
        return desired.set_desired(
            self.session, device, models, rollout=self.stored.id, canary=canary, profile=profile, now_ms=self.now_ms
        )

    def ask_back(self, row: DeviceExecution) -> int:
        """Ask the device of ``row`` back to what it ran before, its other models left as they are now.

        What was revoked since is not named again: the device is left to its own choice of what it holds.
        """
        key, models = self.stored.model_key, desired.current_models(self.session, row.device)
        models.pop(key, None)
        before = previous_models(row).get(key)
        if before is not None and before.sha256 not in self.forbidden:
            models[key] = before
        return self.ask(row.device, models, canary=False)

    def put(self, row: DeviceExecution, execution: Execution) -> None:
        """Write a row back; the first devices that fail for a reason are asked for a diagnosis."""
        has_failed = execution.state in FAILURES and row.state != execution.state.value
        put(row, execution, self.stored.spec.policy.deadlines, self.now_ms)
        self.session.add(row)
        if has_failed:
            diagnoses.ask_about_failure(
                self.session,
                rollout=self.stored.id,
                wave=row.wave,
                device=row.device,
                failure=execution.reason,
                most=self.stored.spec.policy.diagnoses,
                now_ms=self.now_ms,
            )


def carry_out(run: Run, effect: Effect) -> Sequence[Event]:
    """Carry out one effect; return the events that follow."""
    return _HANDLERS[type(effect)](run, effect)


def _offer(run: Run, effect: OfferWave) -> Sequence[Event]:
    session, stored, moves = run.session, run.stored, Moves(run.now_ms)
    release = session.get(Release, stored.spec.bundle_sha256)
    assert release is not None  # a foreign key
    check_clear(session, release.sha256)  # a rollout of a revoked bundle is about to be stopped: it offers no more
    target, key = desired_model(release), stored.model_key
    rows = rows_of(session, stored.id, [effect.wave], [DeviceState.QUEUED])
    hindered = take_over(session, stored, [row.device for row in rows], run.now_ms)
    for row in rows:
        execution = execution_of(row)
        if row.device in hindered:
            moved = with_state(execution, DeviceState.SKIPPED, hindered[row.device], run.now_ms)
        else:
            models = desired.current_models(session, row.device)
            row.previous_json = canonical_json(models).decode()
            before = models[key].sha256 if key in models else ""
            gen = run.ask(row.device, {**models, key: target}, canary=True)
            moved = offer(replace(execution, previous_sha256=before), gen, run.now_ms)
        moves.add(row, execution.state, moved)
        run.put(row, moved)
    return moves.events()


def _top_up(run: Run, effect: TopUpWave) -> Sequence[Event]:
    online_first = _last_seen(run.session)
    order = {device: place for place, (device, _) in enumerate(run.stored.plan.device_strata)}
    patience_ms = 3 * run.stored.spec.profile.heartbeat_s * 1000
    for wave, count in effect.takes:
        rows = rows_of(run.session, run.stored.id, [wave], [DeviceState.QUEUED])
        rows.sort(key=lambda row: (run.now_ms - online_first.get(row.device, 0) > patience_ms, order[row.device]))
        for row in rows[:count]:
            row.wave, row.updated_ms = effect.wave, run.now_ms
            run.session.add(row)
    run.session.flush()
    return ()


def _withdraw(run: Run, effect: WithdrawOffers) -> Sequence[Event]:
    moves = Moves(run.now_ms)
    for row in rows_of(run.session, run.stored.id, effect.waves, [DeviceState.OFFERED, DeviceState.DEFERRED]):
        execution = execution_of(row)
        run.ask_back(row)
        moved = withdraw(execution, run.now_ms)
        moves.add(row, execution.state, moved)
        run.put(row, moved)
    return moves.events()


def _roll_back(run: Run, effect: RollBack) -> Sequence[Event]:
    moves, states = Moves(run.now_ms), _states(run.session)
    for row in rows_of(run.session, run.stored.id, effect.waves):
        execution = execution_of(row)
        if states.get(row.device) != ENROLLED and execution.state not in NOT_ON_TRIAL:
            moved = with_state(execution, DeviceState.SUPERSEDED, f"device_{states.get(row.device)}", run.now_ms)
        elif (moved := roll_back(execution, row.generation, run.now_ms)) is execution:
            continue
        elif execution.offered_at_ms:
            moved = roll_back(execution, run.ask_back(row), run.now_ms)
        moves.add(row, execution.state, moved)
        run.put(row, moved)
    return moves.events()


def _expire(run: Run, effect: ExpireDevices) -> Sequence[Event]:
    policy, profile = run.stored.spec.policy, run.stored.spec.profile
    rows = run.session.exec(
        select(DeviceExecution, Device.last_seen_ms, Device.presence)
        .join(Device, col(Device.id) == col(DeviceExecution.device))
        .where(
            col(DeviceExecution.rollout) == run.stored.id,
            col(DeviceExecution.wave).in_(effect.waves),
            col(DeviceExecution.state).in_([state.value for state in (DeviceState.OFFERED, *IN_PROGRESS)]),
            col(DeviceExecution.deadline_ms) <= effect.now_ms,
        )
        .order_by(col(DeviceExecution.device))
    ).all()
    moves = Moves(run.now_ms)
    for row, last_seen_ms, presence in rows:
        execution = execution_of(row)
        moved = expire(
            execution,
            policy.deadlines,
            effect.now_ms,
            last_seen_ms=last_seen_ms or 0,
            heartbeat_s=profile.heartbeat_s,
            said_going_offline=presence == "going_offline",
        )
        moves.add(row, execution.state, moved)
        run.put(row, moved)
    return moves.events()


def _judge(run: Run, effect: RequestJudgement) -> Sequence[Event]:
    wave = run.stored.state.waves[effect.wave]
    evidence = gather_evidence(run.session, run.stored, effect, bucket_ms=run.bucket_ms, now_ms=run.now_ms)
    run.evidence[evidence.sha256] = encode_evidence(evidence)
    results = judge(run.stored.spec.policy, wave.installs, evidence, dict(wave.not_applicable), wave.restarts)
    return [GateJudged(effect.wave, effect.look, results, evidence.sha256, run.now_ms)]


def _notify(run: Run, effect: Notify) -> Sequence[Event]:
    key = f"rollout:{run.stored.id}:{effect.wave}:{effect.kind}:{effect.reason}"
    if run.session.exec(select(Outbox.id).where(Outbox.key == key)).first() is None:
        body = {
            "rollout": run.stored.id,
            "model": run.stored.model_key,
            "wave": effect.wave,
            "kind": effect.kind,
            "reason": effect.reason,
        }
        row = Outbox(
            kind=f"rollout.{effect.kind.partition(':')[0]}",
            key=key,
            body_json=canonical_json(body).decode(),
            created_ms=run.now_ms,
            due_ms=run.now_ms,
        )
        run.session.add(row)
        run.session.flush()
    return ()


def _record(run: Run, effect: Record) -> Sequence[Event]:
    body: dict[str, Any] = {
        "wave": effect.wave,
        "reason": effect.reason,
        "look": effect.look,
        "numbers": dict(effect.numbers),
        "results": msgspec.to_builtins(effect.results),
        "evidence_sha256": effect.evidence_sha256,
        "spec_sha256": run.stored.row.spec_sha256,
    }
    if effect.evidence_sha256 in run.evidence:
        body["evidence"] = run.evidence[effect.evidence_sha256]
    kind: audit.Kind = "gate" if effect.kind == "gate" else "decision"
    actor, subject = effect.actor or SYSTEM, f"rollout:{run.stored.id}"
    audit.record(run.session, kind, actor, f"rollout.{effect.action}", subject, body, effect.at_ms)
    return ()


def _states(session: Session) -> dict[str, str]:
    return dict(session.exec(select(Device.id, Device.state)).all())


def _last_seen(session: Session) -> dict[str, int]:
    return {device: seen or 0 for device, seen in session.exec(select(Device.id, Device.last_seen_ms))}


_HANDLERS: dict[type[Any], Callable[[Run, Any], Sequence[Event]]] = {
    OfferWave: _offer,
    TopUpWave: _top_up,
    WithdrawOffers: _withdraw,
    RollBack: _roll_back,
    ExpireDevices: _expire,
    RequestJudgement: _judge,
    Notify: _notify,
    Record: _record,
}
