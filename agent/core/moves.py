"""The moves of the updater: each takes the state from one step to another and says what to do there.

Leaves the question *when* to ``updater``. Times are UTC epoch milliseconds. Every move ends in ``enter``, which is the
only place that starts a wait.
"""

from __future__ import annotations

from dataclasses import replace

from agent.core import effects as fx
from agent.core.policy import DEFER, JUDGE_EVERY, Policy
from agent.core.reasons import ENVIRONMENT
from agent.core.state import MAX_TRIED, Asked, Release, SafeMode, Step, Tried, UpdaterState

Outcome = tuple[UpdaterState, tuple[fx.Effect, ...]]

LOOP, LOOP_CODE = "loop", "TRANSITION_CAP"
_TOUCHING = (Step.ACTIVATING, Step.PROBATION, Step.REVERTING)
"""Steps that touch what answers; ``Policy.max_transitions`` counts them."""


def enter(s: UpdaterState, step: Step, at: int, wait_s: float = 0.0) -> UpdaterState:
    """Return ``s`` in ``step`` from ``at`` on; ``wait_s`` = 0 sets no deadline."""
    deadline = at + to_ms(wait_s) if wait_s else 0
    transitions = s.transitions + (step in _TOUCHING)
    return replace(
        s, step=step, since_ms=at, deadline_ms=deadline, transitions=transitions, asks="", tries=0, retry_ms=0
    )


def begin(s: UpdaterState, at: int, asked: Asked, policy: Policy, *, deferrals: int = 0) -> Outcome:
    """Take up an instruction from rest; one that was begun before keeps the counts that bound its loops."""
    release = asked.release
    if asked.gen != s.gen:
        s = replace(s, transitions=0, wrong_content=0)
    s = replace(
        s,
        gen=asked.gen,
        rollout=asked.rollout,
        profile=asked.profile,
        target=release,
        pending=None,
        attempts=0,
        recoveries=0,
        deferrals=deferrals,
        reason="",
        code="",
        detail="",
    )
    if release is None:
        if s.committed is None:
            s = enter(s, Step.IDLE, at)
            return s, (report(s),)
        return revert(s, at, None, Step.IDLE, "", "", "")
    if s.committed and release.sha256 == s.committed.sha256:
        s = enter(replace(s, target=s.committed), Step.CONFIRMED, at)
        return s, (report(s),)
    if s.previous and release.sha256 == s.previous.sha256:
        s = replace(s, target=s.previous)
    tried = next((t for t in s.tried if t.sha256 == release.sha256), None)
    if tried:
        is_anew = asked.rollout != tried.rollout or (not asked.rollout and asked.gen > tried.gen)
        s = replace(s, attempts=0 if is_anew else tried.attempts)
        if s.attempts >= policy.max_attempts:
            detail = f"It was activated {tried.attempts} times on this device and never committed ({tried.reason})."
            return fail(s, at, "denied", "DENIED_HERE", detail)
    s = enter(s, Step.AUTHORIZING, at, s.profile.accept_s)
    return s, (report(s), fx.Authorize(target_of(s)))


def begin_again(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    """Take up the instruction that was put off."""
    asked = Asked(s.gen, s.target, s.rollout, s.profile)
    return begin(s, at, asked, policy, deferrals=s.deferrals)


def activate(s: UpdaterState, at: int, policy: Policy, *first: fx.Effect) -> Outcome:
    """Begin one more activation of the target, unless there were too many; its cost is counted before it starts."""
    if s.transitions >= policy.max_transitions:
        s = remember(s, LOOP, policy.max_attempts)
        s, effects = fail(s, at, LOOP, LOOP_CODE, loop_detail(s))
        return s, (*first, *effects)
    s = enter(replace(s, attempts=s.attempts + 1), Step.ACTIVATING, at, s.profile.activate_s)
    return s, (*first, report(s), fx.Activate(target_of(s)))


def commit(s: UpdaterState, at: int) -> Outcome:
    """Make the release at work the committed one, and the committed one previous-good."""
    old, new = s.committed, target_of(s)
    is_return = s.previous is not None and s.previous.sha256 == new.sha256
    # Trust design, step 16: the counter of the release committed before, and after a return not above what now runs.
    floor = max(s.floor, min(old.counter, new.counter)) if old else s.floor
    s = replace(
        s,
        committed=new,
        previous=None if is_return or s.is_revoked(old) else old,
        floor=floor,
        tried=tuple(t for t in s.tried if t.sha256 != new.sha256),
        attempts=0,
        recoveries=0,
        wrong_content=0,
        deferrals=0,
        stand_in="",
    )
    s, told = leave_safe_mode(s)
    s = enter(s, Step.CONFIRMED, at)
    raise_floor = (fx.RaiseFloor(s.model, floor),) if floor else ()
    return s, (fx.Commit(new), *raise_floor, fx.CollectGarbage(s.retained), report(s), *told)


def revert(s: UpdaterState, at: int, to: Release | None, landing: Step, reason: str, code: str, detail: str) -> Outcome:
    """Go back to ``to``, or to what may still run; rest in ``landing`` once it answers, unless something is pending.

    None means that nothing is to answer, where ``landing`` is ``IDLE`` (it was asked for); otherwise it means that
    nothing is known to return to, and the factory release is taken where there is one.
    """
    s = replace(s, revert_to=to, landing=landing, reason=reason, code=code, detail=detail)
    return go_back(s, at)


def go_back(s: UpdaterState, at: int) -> Outcome:
    """Go to ``revert_to``, or where that is unknown or forbidden to what this device has instead, as known now."""
    to = s.revert_to
    if to is None and s.landing is not Step.IDLE:
        to = s.before_committed
    to = permitted(s, to)
    s = enter(replace(s, revert_to=to), Step.REVERTING, at, s.profile.activate_s)
    return s, (fx.Revert(to, mode_of(s, to)),)


def permitted(s: UpdaterState, to: Release | None) -> Release | None:
    """Return ``to``, or another release of this device where ``to`` is forbidden; ``to`` itself where all are.

    What is forbidden and has no stand-in is still the one to return to: its bundle says what is done then.
    """
    if s.is_revoked(to):
        return next((r for r in s.ways_back if not s.is_revoked(r)), s.committed or to)
    return to


def mode_of(s: UpdaterState, release: Release | None) -> SafeMode:
    """Return the safe mode in which ``release`` may be served; empty where it is not forbidden."""
    return s.declared if s.is_revoked(release) else ""


def leave_safe_mode(s: UpdaterState) -> Outcome:
    """Note that what answers is not forbidden (any more); does nothing outside a safe mode."""
    if not s.safe_mode:
        return s, ()
    return replace(s, safe_mode=""), (fx.TellSafeMode(s.committed.sha256 if s.committed else "", ""),)


def enter_safe_mode(s: UpdaterState, committed: Release) -> Outcome:
    """Note that the committed release is forbidden and has no stand-in."""
    if s.safe_mode == s.declared:
        return s, ()
    return replace(s, safe_mode=s.declared), (fx.TellSafeMode(committed.sha256, s.declared),)


def landed(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    """The release reverted to answers."""
    to = s.revert_to
    if (to.sha256 if to else "") != (s.committed.sha256 if s.committed else ""):
        s = replace(s, committed=to, previous=None)
    pending, landing = s.pending, s.landing
    s = replace(s, revert_to=None, pending=None, landing=Step.ROLLED_BACK)
    s, told = enter_safe_mode(s, to) if to and s.is_revoked(to) else leave_safe_mode(s)
    if pending:
        s, effects = begin(s, at, pending, policy)
        return s, (fx.CollectGarbage(s.retained), *effects, *told)
    if landing is Step.DEFERRED and s.transitions >= policy.max_transitions:
        s = remember(s, LOOP, policy.max_attempts)
        s = replace(s, reason=LOOP, code=LOOP_CODE, detail=loop_detail(s))
        landing = Step.ROLLED_BACK
    if landing is Step.DEFERRED:
        s, effects = defer(s, at, s.reason, s.code, s.detail, draw=1.0)
        return s, (*effects, *told)
    s = enter(s, landing, at)
    return s, (fx.CollectGarbage(s.retained), report(s), *told)


def fail(s: UpdaterState, at: int, reason: str, code: str, detail: str) -> Outcome:
    """End the instruction before anything was activated; reasons of the environment put it off instead."""
    if reason in ENVIRONMENT:
        return defer(s, at, reason, code, detail, draw=1.0)
    s = enter(replace(s, reason=reason, code=code, detail=detail), Step.FAILED, at)
    return s, (fx.CollectGarbage(s.retained), report(s))


def defer(s: UpdaterState, at: int, reason: str, code: str, detail: str, draw: float) -> Outcome:
    """Put the release off for a reason that is not its own; it is begun again after a growing wait."""
    s = replace(s, reason=reason, code=code, detail=detail, deferrals=s.deferrals + 1)
    s = enter(s, Step.DEFERRED, at)
    if reason != "offline":  # that one is ended by contact: activating again without it would end the same way
        s = replace(s, retry_ms=at + to_ms(DEFER.delay_s(s.deferrals, draw)))
    return s, (report(s),)


def give_up(s: UpdaterState, at: int, reason: str, code: str, detail: str, policy: Policy) -> Outcome:
    """Leave the release at work, or at rest the committed one, for the one before it; it is denied from here on."""
    if s.step in (Step.ACTIVATING, Step.PROBATION):
        is_final = reason == "user"
        s = remember(s, reason, policy.max_attempts if is_final else s.attempts)
        return revert(s, at, s.committed, Step.ROLLED_BACK, reason, code, detail)
    if s.step.is_before_activation and s.target:
        cancel = fx.Cancel(s.target.sha256)
        s = enter(remember(s, reason, policy.max_attempts), Step.ROLLED_BACK, at)
        s = replace(s, reason=reason, code=code, detail=detail)
        return s, (cancel, fx.CollectGarbage(s.retained), report(s))
    if s.step.is_rest and s.committed and s.before_committed:
        s = remember(replace(s, target=s.committed), reason, policy.max_attempts)
        return revert(s, at, s.before_committed, Step.ROLLED_BACK, reason, code, detail)
    return s, ()


def remember(s: UpdaterState, reason: str, attempts: int) -> UpdaterState:
    """Keep how often the release at work was activated, so that no later instruction forgets it."""
    target = target_of(s)
    others = tuple(t for t in s.tried if t.sha256 != target.sha256)
    mine = Tried(target.sha256, attempts, s.gen, s.rollout, reason)
    return replace(s, tried=(*others, mine)[-MAX_TRIED:])


def loop_detail(s: UpdaterState) -> str:
    """Return what is said where the last bound of loops is reached."""
    return f"What answers was touched {s.transitions} times for this instruction, and it never came to rest."


def report(s: UpdaterState) -> fx.Report:
    """Return the report of where ``s`` stands."""
    return fx.Report(s.phase, s.target.sha256 if s.target else "", s.reason, s.code, s.detail)


def target_of(s: UpdaterState) -> Release:
    """Return the release at work; there is one in every step that calls this."""
    assert s.target is not None
    return s.target


def next_judgement_ms(s: UpdaterState, at: int) -> int:
    """Return when health is judged next in probation: ``JUDGE_EVERY`` times in it, at its end, and on after it."""
    end = s.since_ms + to_ms(s.profile.probation_s)
    due = at + max(1000, to_ms(s.profile.probation_s) // JUDGE_EVERY)
    return min(due, end) if at < end else due


def to_ms(seconds: float) -> int:
    """Return whole milliseconds."""
    return round(seconds * 1000)
