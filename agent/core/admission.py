"""Conditions that put an update off: a window, a lock, battery, network, memory, disk. Asked before two stages.

* ``download``: asked once trust allows the release, before its first byte.
* ``activate``: asked once the release is staged and passed its trial, before what answers is touched.

What is put off keeps everything it has (blobs, slot) and is looked at again every ``LOOK_AGAIN_S``, at the moment a
window opens, or when the runner says that something changed. None of it is counted: no attempt, no recovery, no
transition. A release that was put off before its activation is verified and tried again when its time has come, since
days may lie between. A way back is never put off, and neither is the first activation where nothing answers.

Leaves to the runner what the conditions are.
"""

from __future__ import annotations

from dataclasses import replace

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.moves import Outcome, activate, begin, begin_again, enter, report, target_of, to_ms
from agent.core.policy import LOOK_AGAIN_S, Policy
from agent.core.reasons import reason_of
from agent.core.state import Admittance, Asked, Step, UpdaterState

_ASKING: dict[Admittance, Step] = {"download": Step.AUTHORIZING, "activate": Step.STAGING}


def ask(s: UpdaterState, at: int, stage: Admittance, *first: fx.Effect) -> Outcome:
    """Ask for ``stage`` in the step that comes before it; the answer's deadline begins now."""
    wait_s = s.profile.accept_s if stage == "download" else s.profile.activate_s
    s = replace(s, asks=stage, tries=0, retry_ms=0, deadline_ms=at + to_ms(wait_s))
    return s, (*first, fx.Admit(target_of(s), stage))


def admitted(s: UpdaterState, event: ev.Admitted, policy: Policy) -> Outcome:
    """Go on with what was asked for."""
    if s.asks != event.stage or s.target is None or s.target.sha256 != event.sha256:
        return s, ()
    at = event.at_ms
    if s.step is Step.DEFERRED:
        if event.stage == "download":
            return begin_again(s, at, policy)
        s = enter(replace(s, reason="", code="", detail=""), Step.VERIFYING, at, s.profile.activate_s)
        return s, (report(s), fx.Verify(target_of(s)))
    if s.step is not _ASKING[event.stage]:
        return s, ()
    if event.stage == "download":
        s = enter(s, Step.DOWNLOADING, at, s.profile.download_s)
        return s, (report(s), fx.Download(target_of(s)))
    return activate(s, at, policy)


def put_off(s: UpdaterState, event: ev.EffectFailed, stage: Admittance) -> Outcome:
    """Wait until the condition passes; told once for each condition, not for each look at it."""
    at, reason = event.at_ms, reason_of(event.code)
    if s.step is not Step.DEFERRED or (s.reason, s.code, s.asks) != (reason, event.code, stage):
        s = enter(replace(s, reason=reason, code=event.code, detail=event.detail), Step.DEFERRED, at)
        effects: tuple[fx.Effect, ...] = (report(s),)
    else:
        effects = ()
    look_ms = to_ms(LOOK_AGAIN_S)
    return replace(s, asks=stage, retry_ms=at + min(look_ms, event.wait_ms or look_ms)), effects


def look_again(s: UpdaterState, at: int) -> Outcome:
    """Ask again for the stage that was put off; where no answer comes, once more after the same wait."""
    assert s.asks
    return replace(s, retry_ms=at + to_ms(LOOK_AGAIN_S)), (fx.Admit(target_of(s), s.asks),)


def conditions_changed(s: UpdaterState, at: int) -> Outcome:
    """Let what waits in ``DEFERRED`` be looked at now."""
    is_waiting = s.step is Step.DEFERRED and s.retry_ms > at
    return (replace(s, retry_ms=at) if is_waiting else s), ()


def retry_requested(s: UpdaterState, event: ev.RetryRequested, policy: Policy) -> Outcome:
    """Take up again what a person asks for: at once what was put off, and with clean counts what failed here.

    What trust forbids stays where it is, and so does what runs already.
    """
    at, target = event.at_ms, s.target
    if s.step is Step.DEFERRED:
        return begin_again(s, at, policy) if not s.retry_ms else conditions_changed(s, at)
    is_left = s.step in (Step.FAILED, Step.ROLLED_BACK)
    if not is_left or target is None or s.is_revoked(target):
        return s, ()
    if s.committed and target.sha256 == s.committed.sha256:  # it runs, or is about to be served again
        return (replace(s, retry_ms=at) if s.retry_ms > at else s), ()
    tried = tuple(t for t in s.tried if t.sha256 != target.sha256)
    s = replace(s, tried=tried, transitions=0, wrong_content=0)
    return begin(s, at, Asked(s.gen, target, s.rollout, s.profile), policy)
