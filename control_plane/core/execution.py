"""One device in one rollout: what its reports and its silence mean.

Rules it keeps: success is the observed digest, seen in two heartbeats at least a probation apart, and never the
device's word alone; late, repeated and out-of-order reports change nothing; every unresolved state has a deadline.
Leaves storing rows to the shell, which turns a changed ``state`` into ``DeviceMoved``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from bundles.wire.messages import ModelReported, Reported
from control_plane.core.policy import Deadlines
from control_plane.core.states import IN_PROGRESS, MOVES, DeviceState, is_model_reason

S = DeviceState
EXECUTION_VERSION = 1
SILENT_AFTER_HEARTBEATS = 3

_PHASES: dict[str, DeviceState] = {
    "downloading": S.DOWNLOADING,
    "verified": S.VERIFIED,
    "staged": S.STAGED,
    "activating": S.ACTIVATING,
}
_FETCHING = (S.ACCEPTED, S.DOWNLOADING, S.VERIFIED)
_SETTLED_PHASES = frozenset({"idle", "confirmed"})


@dataclass(frozen=True)
class DeviceReport:
    """What a heartbeat says about one model.

    Attributes:
        generation: of desired, as applied or being worked on.
        active_sha256: the bundle that answers now; empty if none.
        phase: the device's word for where the newest instruction stands.
        target_sha256: the bundle of that instruction.
        reason: why it failed, was deferred or rolled back.
        attempt: activations tried.
        session: orders heartbeats, together with ``beat``.
        beat: counts heartbeats within the session.
        at_ms: server clock, when it was received.
    """

    generation: int
    active_sha256: str
    at_ms: int
    phase: str = "idle"
    target_sha256: str = ""
    reason: str = ""
    attempt: int = 0
    session: int = 0
    beat: int = 0


@dataclass(frozen=True)
class Execution:
    """One row.

    Attributes:
        target_sha256: the rollout's bundle.
        previous_sha256: what the device ran before, and returns to; empty if nothing.
        state: where it stands.
        reason: code.
        generation: of desired that asked for the move now under way (the offer's, later the roll back's).
        attempt: activations tried, by the device's word.
        offered_at_ms: 0 = never offered, hence never exposed.
        accepted_at_ms: took the offer.
        staged_at_ms: the bundle was unpacked and ready; the time to activate runs from here.
        stage_at_ms: entered ``state``.
        first_match_at_ms: first heartbeat of an unbroken run with the target digest; 0 = none.
        matches: heartbeats in that run.
        mismatch_at_ms: confirmed, and then first seen with another digest.
        resolved_at_ms: confirmed or failed at.
        session: of the newest report that mattered.
        beat: of the same.
        outcome: the state before it was rolled back; empty until then.
        outcome_reason: its reason.
    """

    target_sha256: str
    previous_sha256: str = ""
    state: DeviceState = S.QUEUED
    reason: str = ""
    generation: int = 0
    attempt: int = 0
    offered_at_ms: int = 0
    accepted_at_ms: int = 0
    staged_at_ms: int = 0
    stage_at_ms: int = 0
    first_match_at_ms: int = 0
    matches: int = 0
    mismatch_at_ms: int = 0
    resolved_at_ms: int = 0
    session: int = 0
    beat: int = 0
    outcome: str = ""
    outcome_reason: str = ""


def report_of(reported: Reported, model: str, at_ms: int) -> DeviceReport:
    """Return what a heartbeat received ``at_ms`` (server clock) says about ``model``."""
    said = reported.models.get(model, ModelReported())
    return DeviceReport(
        generation=reported.gen,
        active_sha256=said.sha256,
        at_ms=at_ms,
        phase=said.phase,
        target_sha256=said.target_sha256,
        reason=said.reason,
        attempt=said.attempt,
        session=reported.session,
        beat=reported.beat,
    )


def offer(execution: Execution, generation: int, now_ms: int) -> Execution:
    """Return the row after desired ``generation`` asked the device to move; only QUEUED devices are offered."""
    if execution.state is not S.QUEUED:
        return execution
    return replace(
        _enter(execution, S.OFFERED, "", now_ms), generation=generation, offered_at_ms=now_ms, first_match_at_ms=0
    )


def withdraw(execution: Execution, now_ms: int) -> Execution:
    """Return the row after an offer nobody took was recalled; others stay as they are."""
    if execution.state not in (S.OFFERED, S.DEFERRED):
        return execution
    return _enter(execution, S.QUEUED, "withdrawn", now_ms)


def roll_back(execution: Execution, generation: int, now_ms: int) -> Execution:
    """Return the row after desired ``generation`` asked the device back.

    Give the old generation for devices that were never offered (``offered_at_ms`` is 0): nobody asks them anything.
    """
    state = execution.state
    if state in (S.ROLLING_BACK, S.ROLLED_BACK, S.SKIPPED, S.SUPERSEDED, S.CANCELED):
        return execution
    is_on_trial = state not in (S.QUEUED, S.OFFERED, S.DEFERRED)
    moved = _enter(execution, S.ROLLING_BACK if is_on_trial else S.CANCELED, "rolled_back", now_ms)
    return replace(moved, generation=generation, outcome=state.value, outcome_reason=execution.reason)


def observe_device(execution: Execution, report: DeviceReport, *, probation_s: float) -> Execution:
    """Return the row after a heartbeat; the same row if the report is old, repeated or beside the point.

    Args:
        execution: the row.
        report: of this rollout's model.
        probation_s: the profile's probation: how far apart two heartbeats with the target digest must be.
    """
    is_ordered = report.session > 0 or report.beat > 0
    if is_ordered and (report.session, report.beat) <= (execution.session, execution.beat):
        return execution
    if report.generation < execution.generation:
        return execution
    span_ms = int(probation_s * 1000)
    match execution.state:
        case S.QUEUED | S.SKIPPED | S.SUPERSEDED | S.FAILED | S.ROLLED_BACK_LOCAL | S.REGRESSED | S.ROLLED_BACK:
            return execution
        case S.ROLLING_BACK:
            if report.active_sha256 != execution.previous_sha256:
                return execution
            seen = _enter(execution, S.ROLLED_BACK, execution.reason, report.at_ms)
        case S.CANCELED:
            if execution.offered_at_ms == 0 or report.active_sha256 != execution.target_sha256:
                return execution
            seen = _enter(execution, S.ROLLING_BACK, "found_on_halted_bundle", report.at_ms)
        case S.CONFIRMED:
            seen = _watch(execution, report, span_ms)
        case _:
            seen = _progress(execution, report, span_ms)
    if seen is execution:
        return execution
    return replace(seen, session=report.session, beat=report.beat, attempt=max(execution.attempt, report.attempt))


def expire(
    execution: Execution,
    deadlines: Deadlines,
    now_ms: int,
    *,
    last_seen_ms: int,
    heartbeat_s: float,
    said_going_offline: bool = False,
) -> Execution:
    """Return the row after its deadline, if that has passed.

    Args:
        execution: the row.
        deadlines: the policy's.
        now_ms: server clock.
        last_seen_ms: when the device was last heard of, server clock; 0 = never.
        heartbeat_s: the profile's.
        said_going_offline: its last presence said so. A hint that only helps while the old digest was active.
    """
    due_ms = deadline_ms(execution, deadlines)
    if due_ms is None or now_ms < due_ms:
        return execution
    is_silent = now_ms - last_seen_ms > SILENT_AFTER_HEARTBEATS * heartbeat_s * 1000
    state = execution.state
    if state is S.OFFERED:
        return _enter(execution, S.DEFERRED, "offline" if is_silent else "not_accepted", now_ms)
    if said_going_offline and execution.first_match_at_ms == 0:
        return _enter(execution, S.DEFERRED, "offline", now_ms)
    if is_silent:
        return _resolve(execution, S.UNRESPONSIVE, "deadline", now_ms)
    if state in _FETCHING:
        # Alive, and still fetching: the network's fault. The device goes on; the wave does not wait for it.
        return _enter(execution, S.DEFERRED, "transport", now_ms)
    return _resolve(execution, S.FAILED, "deadline", now_ms)


def deadline_ms(execution: Execution, deadlines: Deadlines) -> int | None:
    """Return when the present stage ends by itself; None where nothing is waited for."""
    match execution.state:
        case S.OFFERED:
            return execution.offered_at_ms + int(deadlines.accept_s * 1000)
        case S.ACCEPTED | S.DOWNLOADING | S.VERIFIED:
            return execution.accepted_at_ms + int(deadlines.download_s * 1000)
        case S.STAGED | S.SHADOWING | S.ACTIVATING:
            return execution.staged_at_ms + int(deadlines.activate_s * 1000)
        case S.PROBATION:
            return execution.stage_at_ms + int(deadlines.probation_s * 1000)
        case _:
            return None


def encode_execution(execution: Execution) -> dict[str, Any]:
    """Return the row as plain JSON values."""
    return {"v": EXECUTION_VERSION, **msgspec.to_builtins(execution)}


def decode_execution(document: Mapping[str, Any]) -> Execution:
    """Return a stored row.

    Raises:
        msgspec.ValidationError: it is not one.
    """
    return msgspec.convert(document, Execution)


def _progress(execution: Execution, report: DeviceReport, span_ms: int) -> Execution:
    """Advance a device that may be on its way: offered, deferred, in progress or thought lost."""
    at_ms, state = report.at_ms, execution.state
    is_about_target = report.target_sha256 in ("", execution.target_sha256)
    reason = report.reason or "unknown"
    if is_about_target and report.phase in ("failed", "rolled_back"):
        if not is_model_reason(reason):
            return _defer(execution, reason, at_ms)
        return _resolve(execution, S.FAILED if report.phase == "failed" else S.ROLLED_BACK_LOCAL, reason, at_ms)
    if is_about_target and report.phase == "deferred":
        return _defer(execution, report.reason or "user", at_ms)
    if report.active_sha256 == execution.target_sha256:
        first = execution.first_match_at_ms or at_ms
        seen = replace(execution, first_match_at_ms=first, matches=execution.matches + 1)
        if report.phase in _SETTLED_PHASES and at_ms - first >= span_ms and seen.matches >= 2:
            return _resolve(seen, S.CONFIRMED, "", at_ms)
        return _enter(seen, S.PROBATION, "", at_ms) if S.PROBATION in MOVES[state] else seen
    claimed = _PHASES.get(report.phase, S.ACCEPTED) if is_about_target else S.ACCEPTED
    if execution.first_match_at_ms:
        # It had the digest and lost it again: the count of heartbeats starts over, the deadline does not.
        execution = replace(execution, first_match_at_ms=0, matches=0)
    if state is S.DEFERRED and execution.reason == "transport" and claimed in _FETCHING:
        return execution  # still the same slow download: it may not hold the wave again
    if state is S.DEFERRED and report.phase in _SETTLED_PHASES and execution.reason not in ("offline", "not_accepted"):
        return execution  # it deferred by itself and has not begun anew
    return _enter(execution, claimed, "", at_ms) if claimed in MOVES[state] else execution


def _defer(execution: Execution, reason: str, at_ms: int) -> Execution:
    if S.DEFERRED not in MOVES[execution.state]:
        return execution
    return _enter(execution, S.DEFERRED, reason, at_ms)


def _watch(execution: Execution, report: DeviceReport, span_ms: int) -> Execution:
    """Watch a confirmed device: losing the digest is a regression, if it is not just one stray heartbeat."""
    if report.active_sha256 == execution.target_sha256:
        return replace(execution, mismatch_at_ms=0) if execution.mismatch_at_ms else execution
    if report.phase in ("failed", "rolled_back"):
        return _resolve(execution, S.REGRESSED, report.reason or "unknown", report.at_ms)
    if execution.mismatch_at_ms == 0:
        return replace(execution, mismatch_at_ms=report.at_ms)
    if report.at_ms - execution.mismatch_at_ms >= span_ms:
        return _resolve(execution, S.REGRESSED, "digest_changed", report.at_ms)
    return execution


def _enter(execution: Execution, state: DeviceState, reason: str, at_ms: int) -> Execution:
    if state is execution.state:
        return execution if reason == execution.reason else replace(execution, reason=reason)
    is_engaging = state in (*IN_PROGRESS, S.CONFIRMED, S.FAILED, S.ROLLED_BACK_LOCAL)
    was_waiting = execution.state in (S.OFFERED, S.DEFERRED)
    accepted = at_ms if is_engaging and was_waiting else execution.accepted_at_ms
    staged = execution.staged_at_ms
    if state in (S.STAGED, S.SHADOWING, S.ACTIVATING) and (was_waiting or not staged):
        staged = at_ms
    return replace(
        execution, state=state, reason=reason, stage_at_ms=at_ms, accepted_at_ms=accepted, staged_at_ms=staged
    )


def _resolve(execution: Execution, state: DeviceState, reason: str, at_ms: int) -> Execution:
    if state not in MOVES[execution.state]:
        return execution
    return replace(_enter(execution, state, reason, at_ms), resolved_at_ms=at_ms)
