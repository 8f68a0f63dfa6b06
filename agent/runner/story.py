"""The whole story of one model's updates, as plain values: for the status file, diagnosis and the people behind them.

Where it stands and since when, what it waits for and until when, every release it may return to, what was counted and
denied, and the last steps. Leaves what the wire says of a model to ``reporting``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agent.core.policy import Policy
from agent.core.state import Release, Step, UpdaterState


def story(state: UpdaterState, policy: Policy, progress: tuple[int, int]) -> dict[str, Any]:
    """Return the story of one model.

    Args:
        state: of its updater.
        policy: the bounds its counts are held against.
        progress: bytes of its download that are here, and of how many.
    """
    is_downloading = state.step is Step.DOWNLOADING
    return {
        "step": state.step.value,
        "since_ms": state.since_ms,
        "gen": state.gen,
        "rollout": state.rollout,
        "reason": state.reason,
        "code": state.code,
        "detail": state.detail,
        "waits_for": waits_for(state),
        "deadline_ms": state.deadline_ms,
        "looked_at_ms": state.retry_ms,
        "releases": {
            name: _named(release)
            for name, release in (
                ("active", state.active),
                ("committed", state.committed),
                ("previous", state.previous),
                ("factory", state.factory),
                ("target", state.target),
                ("returning_to", state.revert_to),
            )
            if release
        },
        "download": {"bytes": progress[0], "of": progress[1]} if is_downloading and progress[1] else None,
        "counts": {
            "attempts": [state.attempts, policy.max_attempts],
            "recoveries": [state.recoveries, policy.max_recoveries],
            "transitions": [state.transitions, policy.max_transitions],
            "deferrals": state.deferrals,
            "wrong_content": state.wrong_content,
        },
        "denied": [asdict(tried) for tried in state.tried if tried.attempts >= policy.max_attempts],
        "tried": [asdict(tried) for tried in state.tried if tried.attempts < policy.max_attempts],
        "next_gen": state.asked_gen if state.pending else 0,
        "safe_mode": state.safe_mode,
        "history": [asdict(passage) for passage in state.history],
    }


def waits_for(state: UpdaterState) -> str:
    """Say in a few words what the next step waits for; empty where nothing is under way."""
    if state.step is Step.DEFERRED:
        return {"offline": "contact with the control plane"}.get(state.reason, f"the end of: {state.reason}")
    if state.asks:
        return f"this device's word on the {'download' if state.asks == 'download' else 'activation'}"
    if state.step is Step.PROBATION and state.verdict == "healthy" and not state.has_contact:
        return "contact with the control plane"
    return _WAITS.get(state.step, "")


_WAITS = {
    Step.AUTHORIZING: "trust",
    Step.DOWNLOADING: "the download",
    Step.VERIFYING: "hashing",
    Step.STAGING: "the trial",
    Step.ACTIVATING: "the model's first answer",
    Step.PROBATION: "the end of probation",
    Step.REVERTING: "the release it returns to",
}


def _named(release: Release) -> dict[str, Any]:
    return {
        "version": release.version or release.target.rpartition("/")[0].rpartition("/")[2],
        "sha256": release.sha256,
        "counter": release.counter,
        "variant": release.variant,
    }
