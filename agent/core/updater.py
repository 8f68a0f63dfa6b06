"""The updater: ``update(state, event) -> (state, effects)``, one state a model.

Rules it keeps, whatever order events come in:

* **Journal before effect.** Whenever the durable part of the state changes, the first effect is ``Journal``.
* **Being told twice changes nothing.** An answer is taken only in the step that waits for it, for the release at work.
* **Every wait has an end**: each step under way has a deadline, a retry time, or both; ``SetTimer`` asks for the tick.
* **Old or new.** Until ``Activated`` the committed release answers; until the commit it is what everything returns to.
* **Loops are bounded.** At most ``max_attempts`` activations of a digest (a start of the agent in the middle of one
  begins another), then the digest is denied on this device; at most ``max_recoveries`` starts while one release is
  at work. A denial is lifted when the digest is asked for *anew*: by another rollout, or, set by hand, by a later
  generation. It ends with the commit of that digest.
* **Unknown is never success.** Commit needs a healthy judgement made after ``probation_s``, and contact with the
  control plane since the activation (unless the policy declares ``commit_offline``). A release that was healthy but
  had no contact is taken back and deferred, not blamed.
* **The last bound.** One instruction touches what answers at most ``max_transitions`` times, whatever the reasons;
  then it fails with the reason ``loop``, and the digest is denied here. A way back is never refused for that.
* **Environment is not failure.** Transport, disk, power, a window or a lock (``admission``) put an update off; it is
  tried again by itself and nothing of it is counted against the release.
* **Something always answers.** Every way back goes to the first of committed, previous and factory release that works.
* **The floor rises only at commit**, to the counter of the release committed before, and never above the one that runs.
* **Revocation is no kill switch** (``standing``): what is forbidden is never started or returned to while there is
  another release; the last one left goes into the safe mode that its bundle declares.
* The previous release is reactivated without download and without a second probation: it passed both here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.admission import admitted, ask, conditions_changed, retry_requested
from agent.core.moves import (
    Outcome,
    activate,
    begin,
    begin_again,
    commit,
    enter,
    give_up,
    landed,
    next_judgement_ms,
    report,
    revert,
    target_of,
    to_ms,
)
from agent.core.policy import DEFAULT_POLICY, Policy
from agent.core.reasons import is_passing_refusal
from agent.core.setbacks import booted, effect_failed, failed_try, ticked, trial_failed
from agent.core.standing import standing_seen
from agent.core.state import MAX_HISTORY, Passage, Step, UpdaterState


def update(state: UpdaterState, event: ev.Event, policy: Policy = DEFAULT_POLICY) -> Outcome:
    """Return what follows from ``event``.

    Args:
        state: of one model.
        event: what happened; its time must not lie before that of earlier events since the agent's start.
        policy: bounds set by the device's owner.

    Returns:
        The new state and the effects to carry out, in order. The new state counts only once its ``Journal`` (if there
        is one) is durable.
    """
    new, effects = _next(state, event, policy)
    if (new.step, new.gen, new.reason) != (state.step, state.gen, state.reason):
        new = replace(new, history=(*new.history, _passage(new, event.at_ms))[-MAX_HISTORY:])
    if new.durable() != state.durable():
        effects = (fx.Journal(new), *effects)
    if new.due_ms and (new.due_ms != state.due_ms or isinstance(event, ev.Booted)):
        effects = (*effects, fx.SetTimer(new.due_ms))
    return new, effects


def _next(s: UpdaterState, event: ev.Event, policy: Policy) -> Outcome:
    match event:
        case ev.Booted():
            return booted(s, event, policy)
        case ev.DesiredChanged():
            return _desired(s, event, policy)
        case ev.Authorized() if _waits(s, Step.AUTHORIZING, event.sha256):
            return _authorized(s, event.at_ms, policy)
        case ev.Admitted():
            return admitted(s, event, policy)
        case ev.ConditionsChanged():
            return conditions_changed(s, event.at_ms)
        case ev.RetryRequested():
            return retry_requested(s, event, policy)
        case ev.Refused() if _waits(s, Step.AUTHORIZING, event.sha256):
            passing = is_passing_refusal(event.code)
            return failed_try(s, event.at_ms, event.code, event.detail, passing, event.draw)
        case ev.Downloaded() if _waits(s, Step.DOWNLOADING, event.sha256):
            target = replace(target_of(s), version=event.version, variant=event.variant)
            s = enter(replace(s, target=target), Step.VERIFYING, event.at_ms, s.profile.activate_s)
            return s, (fx.Verify(target),)
        case ev.Verified() if _waits(s, Step.VERIFYING, event.sha256):
            s = enter(s, Step.STAGING, event.at_ms, s.profile.activate_s)
            return s, (report(s), fx.Stage(target_of(s)))
        case ev.Staged() if _waits(s, Step.STAGING, event.sha256):
            told = fx.Report("staged", event.sha256)
            if s.committed is None:  # nothing answers: nobody is disturbed, and every minute counts
                return activate(s, event.at_ms, policy, told)
            return ask(s, event.at_ms, "activate", told)
        case ev.TrialFailed() if _waits(s, Step.STAGING, event.sha256):
            return trial_failed(s, event)
        case ev.Activated():
            return _activated(s, event, policy)
        case ev.HealthSeen():
            return _health(s, event, policy)
        case ev.ContactSeen():
            return _contact(s, event, policy)
        case ev.Ticked():
            return ticked(s, event.at_ms, policy)
        case ev.EffectFailed():
            return effect_failed(s, event, policy)
        case ev.RollbackRequested():
            leaves = s.committed if s.step.is_rest else s.target
            if event.sha256 and (leaves is None or leaves.sha256 != event.sha256):
                return s, ()
            detail = f"Asked for by {event.actor}."
            return give_up(s, event.at_ms, "user", "ROLLBACK_REQUESTED", detail, policy)
        case ev.StandingSeen():
            return standing_seen(s, event, policy)
        case ev.Authorized() | ev.Refused() | ev.Downloaded() | ev.Verified() | ev.Staged() | ev.TrialFailed():
            return s, ()  # an answer to work that was abandoned, or a second one
        case _:
            assert_never(event)


def _desired(s: UpdaterState, event: ev.DesiredChanged, policy: Policy) -> Outcome:
    asked, at = event.asked, event.at_ms
    if asked.gen <= s.asked_gen:
        return s, ()
    if s.step is Step.REVERTING:
        return replace(s, pending=asked), ()
    same = asked.release is not None and s.target is not None and asked.release.sha256 == s.target.sha256
    if same and not s.step.is_rest:
        s = replace(s, gen=asked.gen, rollout=asked.rollout, profile=asked.profile)
        return s, (report(s),)
    if s.step in (Step.ACTIVATING, Step.PROBATION):
        detail = f"Generation {asked.gen} asks for another release."
        s = replace(s, pending=asked)
        return revert(s, at, s.committed, Step.ROLLED_BACK, "superseded", "SUPERSEDED", detail)
    cancel = (fx.Cancel(s.target.sha256),) if s.target and s.step.is_before_activation else ()
    s, effects = begin(s, at, asked, policy)
    return s, (*cancel, *effects)


def _authorized(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    if s.previous and target_of(s).sha256 == s.previous.sha256:
        return activate(s, at, policy)  # a way back: whatever the conditions
    return ask(s, at, "download")


def _activated(s: UpdaterState, event: ev.Activated, policy: Policy) -> Outcome:
    if _waits(s, Step.ACTIVATING, event.sha256):
        if s.previous and event.sha256 == s.previous.sha256:
            return commit(s, event.at_ms)
        s = enter(s, Step.PROBATION, event.at_ms, s.profile.probation_s + s.profile.activate_s)
        s = replace(s, verdict="unknown", verdict_ms=0, has_contact=False)
        s = replace(s, retry_ms=next_judgement_ms(s, event.at_ms))
        return s, (report(s),)
    if s.step is Step.REVERTING and event.sha256 == (s.revert_to.sha256 if s.revert_to else ""):
        return landed(s, event.at_ms, policy)
    if s.step.is_rest and s.committed and event.sha256 == s.committed.sha256:
        return replace(s, tries=0, retry_ms=0), ()
    return s, ()


def _health(s: UpdaterState, event: ev.HealthSeen, policy: Policy) -> Outcome:
    judgement = event.judgement
    if _waits(s, Step.PROBATION, event.sha256):
        if judgement.verdict == "unhealthy":
            return give_up(s, event.at_ms, "health", judgement.reason, judgement.detail, policy)
        return _try_commit(replace(s, verdict=judgement.verdict, verdict_ms=event.at_ms), event.at_ms, policy)
    committed = s.committed
    is_crashing = judgement.verdict == "unhealthy" and judgement.reason == "crash"
    if s.step.is_rest and is_crashing and committed and event.sha256 == committed.sha256:
        return give_up(s, event.at_ms, "health", judgement.reason, judgement.detail, policy)
    return s, ()


def _contact(s: UpdaterState, event: ev.ContactSeen, policy: Policy) -> Outcome:
    if s.step is Step.PROBATION and not s.has_contact:
        return _try_commit(replace(s, has_contact=True), event.at_ms, policy)
    if s.step is Step.DEFERRED and s.reason == "offline":
        return begin_again(s, event.at_ms, policy)
    return s, ()


def _try_commit(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    is_healthy = s.verdict == "healthy" and s.verdict_ms >= s.since_ms + to_ms(s.profile.probation_s)
    return commit(s, at) if is_healthy and (s.has_contact or policy.commit_offline) else (s, ())


def _waits(s: UpdaterState, step: Step, sha256: str) -> bool:
    return s.step is step and not s.asks and s.target is not None and s.target.sha256 == sha256


def _passage(s: UpdaterState, at: int) -> Passage:
    return Passage(at, s.step.value, s.target.sha256 if s.target else "", s.reason, s.code)
