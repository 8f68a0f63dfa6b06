"""What the owner of the device may ask of its updaters: to roll back, to try again. On the schedule's line.

Nothing asked for here gets past trust: a roll back goes to what the device has, and a release that is tried again is
authorized anew. Conditions (windows, locks, a battery) hold for a retry as they do for an instruction.
"""

from __future__ import annotations

from agent.core import events as ev
from agent.core.state import Step, UpdaterState
from agent.runner.updates import Updates
from bundles.errors import Refused


def request_rollback(updates: Updates, model: str, actor: str, sha256: str = "") -> str:
    """Go back to the release before the one that answers: the previous one, else the factory's.

    Args:
        updates: of this device.
        model: ``team/model``; may be left out where there is one.
        actor: who asks.
        sha256: the release to leave, as the person saw it; asked twice, only the first counts. Empty = any.

    Returns:
        The model.

    Raises:
        Refused: ``MODEL_UNKNOWN``, ``NO_PREVIOUS`` or ``ROLLBACK_OVERTAKEN``.
    """
    model, state = _find(updates, model)
    if state.step.is_rest and state.before_committed is None:
        raise Refused(
            f"{model} has no previous release on this device.",
            code="NO_PREVIOUS",
            remedy="Ask the control plane for another release.",
        )
    leaves = state.committed if state.step.is_rest else state.target
    if sha256 and (leaves is None or leaves.sha256 != sha256):
        raise Refused(
            f"{model} is not on the release that was to be left any more: {state.step.value}.",
            code="ROLLBACK_OVERTAKEN",
            remedy="Look at its status, and ask again if it is still wanted.",
        )
    updates.offer(model, ev.RollbackRequested(0, actor, sha256))
    return model


def request_retry(updates: Updates, model: str, actor: str) -> str:
    """Take up again what was put off, failed, or was denied on this device.

    Args:
        updates: of this device.
        model: ``team/model``; may be left out where there is one.
        actor: who asks.

    Returns:
        The model.

    Raises:
        Refused: ``MODEL_UNKNOWN``, or ``NOTHING_TO_RETRY``.
    """
    model, state = _find(updates, model)
    if state.step not in (Step.DEFERRED, Step.FAILED, Step.ROLLED_BACK) or state.target is None:
        raise Refused(
            f"{model} has nothing that was put off or failed: it is {state.step}.",
            code="NOTHING_TO_RETRY",
            remedy="See: wavegate-agent status.",
        )
    if state.is_revoked(state.target):
        raise Refused(
            f"{state.target.target} is revoked.",
            code="TRUST_REVOKED",
            remedy="Ask the control plane for another release.",
        )
    updates.offer(model, ev.RetryRequested(0, actor))
    return model


def _find(updates: Updates, model: str) -> tuple[str, UpdaterState]:
    known = sorted(updates.states)
    if not model and len(known) != 1:
        raise Refused(
            "This device has several models, or none.",
            code="MODEL_UNKNOWN",
            remedy=f"Name one: {', '.join(known) or 'none'}.",
        )
    model = model or known[0]
    if model not in updates.states:
        remedy = f"It knows: {', '.join(known) or 'none'}."
        raise Refused(f"This device knows no model {model!r}.", code="MODEL_UNKNOWN", remedy=remedy)
    return model, updates.states[model]
