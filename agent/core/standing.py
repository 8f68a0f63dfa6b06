"""What the updater does about releases that trust forbids. Revocation is not a kill switch (trust design).

* What does not run is dropped at once: an update on its way ends, and a previous release is none to return to.
* A forbidden committed release is left for the previous one, which passed its probation here, or for the factory
  release; an update on its way is taken up again behind that.
* Where nothing else may run, the committed release's bundle says what happens: ``keep_with_alarm`` (it goes on
  answering), ``constant`` or ``stop`` (requests are refused with a code of their own). The control plane is told.
* What is no longer forbidden (its revocation key was rotated away) is served again.

Leaves to the runner who is asked, and to trust how many signatures forbid what runs.
"""

from __future__ import annotations

from dataclasses import replace

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.moves import (
    Outcome,
    enter_safe_mode,
    fail,
    leave_safe_mode,
    permitted,
    remember,
    revert,
)
from agent.core.policy import Policy
from agent.core.state import Asked, Release, Step, UpdaterState

REASON, CODE = "revoked", "TRUST_REVOKED"


def standing_seen(s: UpdaterState, event: ev.StandingSeen, policy: Policy) -> Outcome:
    """Return what follows from trust's word on the releases this state names."""
    s = _remembering(replace(s, declared=event.safe_mode or s.declared), event.revoked)
    s, effects = _decide(s, event.at_ms, policy)
    return _remembering(s, event.revoked), effects


def _remembering(s: UpdaterState, revoked: frozenset[str]) -> UpdaterState:
    return replace(s, revoked=tuple(sorted(revoked.intersection(r.sha256 for r in s.named))))


def _decide(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    if s.step is Step.REVERTING:
        return _while_reverting(s, at)
    is_new = s.target is not None and (s.committed is None or s.target.sha256 != s.committed.sha256)
    effects: tuple[fx.Effect, ...] = ()
    if is_new and s.target and s.is_revoked(s.target) and not s.step.is_rest:
        if not s.step.is_before_activation:
            s = _without_previous(remember(s, REASON, policy.max_attempts))
            return revert(s, at, s.committed, Step.ROLLED_BACK, REASON, CODE, _detail(s.target))
        s, ended = fail(s, at, REASON, CODE, _detail(s.target))
        effects = (fx.Cancel(s.target.sha256), *ended) if s.target else ended
    if s.is_revoked(s.previous):
        s = _without_previous(s)
        effects = (*effects, fx.CollectGarbage(s.retained))
    s, more = _stand(s, at, policy)
    return s, (*effects, *more)


def _stand(s: UpdaterState, at: int, policy: Policy) -> Outcome:
    """See to the committed release, whatever is on its way."""
    committed = s.committed
    if committed is None or s.step in (Step.ACTIVATING, Step.PROBATION):
        return s, ()  # what is on its way answers already, or is about to; where it fails, ``revert`` sees to the rest
    if not s.is_revoked(committed):
        was_withheld = s.safe_mode != ""
        s, told = leave_safe_mode(s)
        return s, (fx.Serve(committed), *told) if was_withheld else ()
    if s.before_committed is None:
        before = s.safe_mode
        s, told = enter_safe_mode(s, committed)
        return s, (fx.Serve(committed, s.safe_mode), *told) if s.safe_mode != before else ()
    cancel: tuple[fx.Effect, ...] = ()
    if s.step.is_before_activation and s.target:
        cancel = (fx.Cancel(s.target.sha256),)
        s = replace(s, pending=Asked(s.gen, s.target, s.rollout, s.profile))
    s = remember(replace(s, target=committed), REASON, policy.max_attempts)
    s, effects = revert(s, at, s.before_committed, Step.ROLLED_BACK, REASON, CODE, _detail(committed))
    return s, (*cancel, *effects)


def _while_reverting(s: UpdaterState, at: int) -> Outcome:
    """Turn to another release where the one on the way back is forbidden; the way itself goes on."""
    s = _without_previous(s)
    to = permitted(s, s.revert_to)
    if to is None or s.revert_to is None or to.sha256 == s.revert_to.sha256:
        return s, ()
    return revert(s, at, to, s.landing, s.reason, s.code, s.detail)


def _without_previous(s: UpdaterState) -> UpdaterState:
    return replace(s, previous=None) if s.is_revoked(s.previous) else s


def _detail(release: Release | None) -> str:
    return f"{release.target if release else 'The release'} was revoked."
