"""What the updater does when something did not go on: an effect failed, a wait ended, the agent started again.

Leaves the way forward to ``updater`` and the moves themselves to ``moves``.
"""

from __future__ import annotations

from dataclasses import replace

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.admission import ask, look_again, put_off
from agent.core.moves import (
    Outcome,
    begin,
    begin_again,
    defer,
    enter,
    fail,
    go_back,
    mode_of,
    next_judgement_ms,
    permitted,
    remember,
    report,
    revert,
    target_of,
    to_ms,
)
from agent.core.policy import MAX_EFFECT_TRIES, MAX_WRONG_CONTENT, RETRY, SERVE_AGAIN_S, Policy
from agent.core.reasons import CONDITIONS, DISK_HELD, ENVIRONMENT, IN_VAIN, STORE_DAMAGE, WRONG_CONTENT, reason_of
from agent.core.state import Asked, Release, Step, UpdaterState

_WORK: dict[Step, ev.EffectKind] = {
    Step.AUTHORIZING: "authorize",
    Step.DOWNLOADING: "download",
    Step.VERIFYING: "verify",
    Step.STAGING: "stage",
}


# --- an effect failed --------------------------------------------------------------------------------------------


def effect_failed(s: UpdaterState, event: ev.EffectFailed, policy: Policy) -> Outcome:
    """Return what follows from an effect that could not be carried out."""
    if event.effect == "serve":
        return _serve_failed(s, event, policy)
    target = s.target.sha256 if s.target else ""
    is_at_it = s.asks if event.effect == "admit" else (s.step is Step.DOWNLOADING and event.effect == "download")
    if event.code == DISK_HELD and s.previous and is_at_it and event.sha256 == target:
        return _make_room(s)
    if event.effect == "admit":
        return _admit_failed(s, event) if s.asks and event.sha256 == target else (s, ())
    if s.retry_ms:
        return s, ()  # told twice: the next try is waiting already
    if _WORK.get(s.step) == event.effect and not s.asks and event.sha256 == target:
        if reason_of(event.code) in CONDITIONS:
            return put_off(s, event, "download" if s.step is Step.DOWNLOADING else "activate")
        return failed_try(s, event.at_ms, event.code, event.detail, event.retryable, event.draw)
    if s.step is Step.ACTIVATING and event.effect == "activate" and event.sha256 == target:
        return _activate_failed(s, event, policy)
    returning_to = s.revert_to.sha256 if s.revert_to else ""
    if s.step is Step.REVERTING and event.effect == "revert" and event.sha256 == returning_to:
        may_pass = event.retryable and event.code not in STORE_DAMAGE  # nothing answers while it is tried again
        return _revert_failed(s, event.at_ms, event.code, event.detail, may_pass, event.draw, policy)
    return s, ()


def failed_try(s: UpdaterState, at: int, code: str, detail: str, retryable: bool, draw: float) -> Outcome:
    """Return what follows from a failure before anything was activated: another try, a deferral, or the end."""
    reason = reason_of(code)
    if code in WRONG_CONTENT:
        s = replace(s, wrong_content=s.wrong_content + 1)
        if s.wrong_content >= MAX_WRONG_CONTENT:
            return fail(s, at, "verify", code, detail)
        if code in STORE_DAMAGE and s.step is not Step.DOWNLOADING:
            # The store has removed what was damaged; only that is fetched again.
            s = enter(s, Step.DOWNLOADING, at, s.profile.download_s)
            return s, (fx.Download(target_of(s)),)
    if reason == "disk" or code == IN_VAIN:
        return defer(s, at, reason, code, detail, draw)
    if retryable:
        tries = s.tries + 1
        return replace(s, tries=tries, retry_ms=at + to_ms(RETRY.delay_s(tries, draw))), ()
    return fail(s, at, reason, code, detail)


def _make_room(s: UpdaterState) -> Outcome:
    """Give up the release kept to return to, so that the new one fits; the committed one and the factory's stay."""
    s = replace(s, previous=None)
    again = fx.Admit(target_of(s), s.asks) if s.asks else fx.Download(target_of(s))
    return s, (fx.CollectGarbage(s.retained), again)


def _admit_failed(s: UpdaterState, event: ev.EffectFailed) -> Outcome:
    assert s.asks
    if reason_of(event.code) in CONDITIONS | {"disk"}:
        return put_off(s, event, s.asks)
    if s.step is Step.DEFERRED or s.retry_ms:
        return s, ()  # looked at again anyway; whatever was wrong with the asking
    return failed_try(s, event.at_ms, event.code, event.detail, event.retryable, event.draw)


def trial_failed(s: UpdaterState, event: ev.TrialFailed) -> Outcome:
    """Return what follows from a trial in which the model did not work."""
    return fail(s, event.at_ms, event.reason or reason_of(event.code), event.code, event.detail)


def _activate_failed(s: UpdaterState, event: ev.EffectFailed, policy: Policy) -> Outcome:
    at, code, reason = event.at_ms, event.code, reason_of(event.code)
    if code in STORE_DAMAGE and s.wrong_content + 1 < MAX_WRONG_CONTENT:
        s = remember(replace(s, wrong_content=s.wrong_content + 1), reason, s.attempts)
        s = enter(s, Step.DOWNLOADING, at, s.profile.download_s)
        return s, (fx.Discard(target_of(s)), fx.Download(target_of(s)))
    if reason in ENVIRONMENT:
        s = remember(s, reason, s.attempts - 1)  # not the release's doing: not counted
        return revert(s, at, s.committed, Step.DEFERRED, reason, code, event.detail)
    if event.retryable and s.attempts < policy.max_attempts:
        tries = s.tries + 1
        return replace(s, tries=tries, retry_ms=at + to_ms(RETRY.delay_s(tries, event.draw))), ()
    return revert(remember(s, reason, s.attempts), at, s.committed, Step.ROLLED_BACK, reason, code, event.detail)


def _revert_failed(
    s: UpdaterState, at: int, code: str, detail: str, retryable: bool, draw: float, policy: Policy
) -> Outcome:
    tries = s.tries + 1
    if retryable and tries < MAX_EFFECT_TRIES:
        return replace(s, tries=tries, retry_ms=at + to_ms(RETRY.delay_s(tries, draw))), ()
    older = _older_than(s, s.revert_to.sha256) if s.revert_to else None
    if older:
        return revert(s, at, older, s.landing, s.reason, s.code, s.detail)
    s = replace(s, revert_to=None, landing=Step.ROLLED_BACK)
    if s.pending:
        return begin(s, at, s.pending, policy)
    s = enter(replace(s, reason=reason_of(code), code=code, detail=detail), Step.FAILED, at)
    return _serving_again(s, at), (report(s),)


def _serve_failed(s: UpdaterState, event: ev.EffectFailed, policy: Policy) -> Outcome:
    """The committed release does not answer after a start."""
    at, committed = event.at_ms, s.committed
    if committed is None or not (s.step.is_rest or s.step.is_before_activation):
        return s, ()
    if event.sha256 != (s.stand_in or committed.sha256):
        return s, ()  # told twice
    if not s.step.is_rest:
        # The update at work may be the cure; until then the release before answers.
        older = _older_than(s, event.sha256)
        return (replace(s, stand_in=older.sha256), (fx.Serve(older),)) if older else (s, ())
    if s.retry_ms:
        return s, ()
    tries, reason = s.tries + 1, reason_of(event.code)
    may_pass = event.retryable and event.code not in STORE_DAMAGE and tries < MAX_EFFECT_TRIES
    if may_pass or reason in ENVIRONMENT:
        return replace(s, tries=tries, retry_ms=at + to_ms(RETRY.delay_s(tries, event.draw))), ()
    if event.code in STORE_DAMAGE:
        # The disk is to blame: fetch the same release anew, with the one before answering meanwhile.
        anew = Asked(s.gen, committed, s.rollout, s.profile)
        s, effects = revert(
            replace(s, pending=anew), at, s.before_committed, Step.ROLLED_BACK, "verify", event.code, event.detail
        )
        return s, (fx.Discard(committed), *effects)
    if s.before_committed:
        s = remember(replace(s, target=committed), reason, policy.max_attempts)
        return revert(s, at, s.before_committed, Step.ROLLED_BACK, reason, event.code, event.detail)
    if s.step is Step.FAILED and s.code == event.code and s.target == committed:
        return _serving_again(s, at), ()
    s = enter(replace(s, target=committed, reason=reason, code=event.code, detail=event.detail), Step.FAILED, at)
    return _serving_again(s, at), (report(s),)


def _serving_again(s: UpdaterState, at: int) -> UpdaterState:
    """Look again later, where there is something to serve: what kept it from answering (memory, a disk) may pass."""
    return replace(s, retry_ms=at + to_ms(SERVE_AGAIN_S)) if s.committed else s


def _older_than(s: UpdaterState, sha256: str) -> Release | None:
    """Return the next way back behind a release that does not answer; None = there is none."""
    digests = [release.sha256 for release in s.ways_back]
    behind = s.ways_back[digests.index(sha256) + 1 :] if sha256 in digests else ()
    return next((release for release in behind if not s.is_revoked(release)), None)


# --- time passed -------------------------------------------------------------------------------------------------


def ticked(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    """Return what is due at ``at``."""
    if s.deadline_ms and at >= s.deadline_ms:
        return _overdue(s, at, policy)
    if not s.retry_ms or at < s.retry_ms:
        return s, ()
    match s.step:
        case Step.PROBATION:
            return replace(s, retry_ms=next_judgement_ms(s, at)), (fx.Judge(target_of(s).sha256),)
        case Step.DEFERRED:
            return look_again(s, at) if s.asks else begin_again(s, at, policy)
        case Step.ACTIVATING:
            return replace(s, attempts=s.attempts + 1, retry_ms=0), (fx.Activate(target_of(s)),)
    return replace(s, retry_ms=0), _work_of(s)


def _work_of(s: UpdaterState) -> tuple[fx.Effect, ...]:
    if s.asks:
        return (fx.Admit(target_of(s), s.asks),)
    match s.step:
        case Step.AUTHORIZING:
            return (fx.Authorize(target_of(s)),)
        case Step.DOWNLOADING:
            return (fx.Download(target_of(s)),)
        case Step.VERIFYING:
            return (fx.Verify(target_of(s)),)
        case Step.STAGING:
            return (fx.Stage(target_of(s)),)
        case Step.REVERTING:
            return (fx.Revert(s.revert_to, mode_of(s, s.revert_to)),)
    return (fx.Serve(s.committed, s.safe_mode),) if s.committed else ()


def _overdue(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    if s.asks:
        return ask(s, at, s.asks)  # an answer that never came is not the release's fault
    cancel = (fx.Cancel(s.target.sha256),) if s.target else ()
    match s.step:
        case Step.AUTHORIZING:
            detail = "Trust metadata could not be fetched in time."
            s, effects = defer(s, at, "transport", "ACCEPT_DEADLINE", detail, 1.0)
            return s, (*cancel, *effects)
        case Step.DOWNLOADING:
            detail = "The download was not finished in time; what arrived is kept."
            s, effects = defer(s, at, "timeout_download", "DOWNLOAD_DEADLINE", detail, 1.0)
            return s, (*cancel, *effects)
        case Step.VERIFYING | Step.STAGING:
            s, effects = fail(s, at, "deadline", "STAGE_DEADLINE", "Checks and trial were not finished in time.")
            return s, (*cancel, *effects)
        case Step.ACTIVATING:
            s = remember(s, "deadline", s.attempts)
            detail = "The model did not answer in time."
            return revert(s, at, s.committed, Step.ROLLED_BACK, "deadline", "ACTIVATE_DEADLINE", detail)
        case Step.PROBATION if s.verdict == "healthy":
            s = remember(s, "offline", s.attempts - 1)
            detail = "The model was healthy, but the control plane was not heard from."
            return revert(s, at, s.committed, Step.DEFERRED, "offline", "NO_CONTACT", detail)
        case Step.PROBATION:
            s = remember(s, "health", s.attempts)
            detail = "There was nothing to judge the model's health by."
            return revert(s, at, s.committed, Step.ROLLED_BACK, "health", "no_data", detail)
        case _:
            s = replace(s, deadline_ms=at + to_ms(s.profile.activate_s))
            return _revert_failed(s, at, "REVERT_DEADLINE", "The way back was not finished in time.", True, 0.0, policy)


# --- the agent started -------------------------------------------------------------------------------------------


def booted(s: UpdaterState, event: ev.Booted, policy: Policy) -> Outcome:
    """Return what to do after a start: first make the committed release answer, then repeat the step at work.

    Deadlines begin anew, since clocks before and after a start cannot be compared.
    """
    at = event.at_ms
    s = s.durable()
    found = event.active or event.factory
    if s == UpdaterState(s.model) and found:
        s = replace(s, committed=found, target=found, step=Step.CONFIRMED, since_ms=at)
    s = replace(s, factory=event.factory)
    if s.committed is None and s.target and s.step is not Step.REVERTING:
        s = replace(s, committed=s.factory)  # something is asked to run, and until it does the factory release answers
    answering = permitted(s, s.committed)  # forbidden while another was on its way: not even until that one answers
    serve = (fx.Serve(answering, mode_of(s, answering)),) if answering else ()
    if s.step.is_rest:
        floor = (fx.RaiseFloor(s.model, s.floor),) if s.floor else ()
        return s, (*serve, *floor, fx.CollectGarbage(s.retained))
    if s.step is Step.DEFERRED:
        if s.reason == "offline":
            return s, serve
        if s.asks:
            s, effects = look_again(s, at)
            return s, (*serve, *effects)
        s, effects = begin_again(s, at, policy)
        return s, (*serve, *effects)
    s = replace(s, recoveries=s.recoveries + 1)
    is_looping = s.recoveries > policy.max_recoveries
    detail = f"The agent started {s.recoveries} times during this update."
    if s.step is Step.REVERTING:
        if is_looping:
            s, effects = _revert_failed(s, at, "REBOOT_LOOP", detail, False, 0.0, policy)
            # Where no way is left it is power that failed, as far as anybody knows, and not what was committed.
            again = (fx.Serve(s.committed, mode_of(s, s.committed)),) if s.step is Step.FAILED and s.committed else ()
            return s, (*effects, *again)
        return go_back(s, at)  # the factory release may have come, or gone, since
    if s.step.is_before_activation:
        if is_looping:
            s = remember(s, "reboot_loop", policy.max_attempts)
            s, effects = fail(s, at, "reboot_loop", "REBOOT_LOOP", detail)
            return s, (*serve, *effects)
        s = enter(s, Step.AUTHORIZING, at, s.profile.accept_s)
        return s, (*serve, fx.Authorize(target_of(s)))
    if is_looping or s.attempts >= policy.max_attempts:
        s = remember(s, "reboot_loop", s.attempts)
        return revert(s, at, s.committed, Step.ROLLED_BACK, "reboot_loop", "REBOOT_LOOP", detail)
    s = enter(replace(s, attempts=s.attempts + 1), Step.ACTIVATING, at, s.profile.activate_s)
    return s, (*serve, fx.Activate(target_of(s)))
