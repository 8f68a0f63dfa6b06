"""The words for where a rollout, a wave and a device stand, and which device moves are legal.

Leaves the rules that move them to ``rollout`` and ``execution``. Values are stored and shown, so they never change;
new ones may be added.
"""

from __future__ import annotations

from enum import StrEnum


class RolloutPhase(StrEnum):
    """Where a rollout stands."""

    PENDING_APPROVAL = "pending_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete"
    REJECTED = "rejected"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can move the rollout any more."""
        return self in _TERMINAL

    @property
    def is_exposing(self) -> bool:
        """Whether devices may be on their way to the new bundle under this rollout's eye."""
        return self in (RolloutPhase.RUNNING, RolloutPhase.PAUSED, RolloutPhase.HALTED)


_TERMINAL = frozenset(
    {
        RolloutPhase.COMPLETED,
        RolloutPhase.ROLLED_BACK,
        RolloutPhase.ROLLBACK_INCOMPLETE,
        RolloutPhase.REJECTED,
        RolloutPhase.ABORTED,
        RolloutPhase.SUPERSEDED,
        RolloutPhase.EXPIRED,
    }
)


class WavePhase(StrEnum):
    """Where a wave stands."""

    PLANNED = "planned"
    OFFERING = "offering"
    SOAKING = "soaking"
    HELD = "held"
    PROMOTED = "promoted"
    FAILED = "failed"


class PauseReason(StrEnum):
    """Why a paused rollout waits."""

    NONE = ""
    MANUAL = "manual"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"
    ENV_SHIFT = "env_shift"


class DeviceState(StrEnum):
    """Where one device stands in one rollout. ``ROLLING_BACK`` and ``ROLLED_BACK`` follow a halt."""

    QUEUED = "queued"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    STAGED = "staged"
    SHADOWING = "shadowing"
    ACTIVATING = "activating"
    PROBATION = "probation"
    CONFIRMED = "confirmed"
    SKIPPED = "skipped"
    DEFERRED = "deferred"
    SUPERSEDED = "superseded"
    CANCELED = "canceled"
    FAILED = "failed"
    ROLLED_BACK_LOCAL = "rolled_back_local"
    UNRESPONSIVE = "unresponsive"
    REGRESSED = "regressed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


S = DeviceState

IN_PROGRESS: tuple[DeviceState, ...] = (
    S.ACCEPTED,
    S.DOWNLOADING,
    S.VERIFIED,
    S.STAGED,
    S.SHADOWING,
    S.ACTIVATING,
    S.PROBATION,
)
"""Engaged and inside their deadlines, in the order a device passes through them. Statistics leave them out."""

FAILURES: tuple[DeviceState, ...] = (S.FAILED, S.ROLLED_BACK_LOCAL, S.UNRESPONSIVE, S.REGRESSED)
"""Resolved against the release."""

RESOLVED: tuple[DeviceState, ...] = (S.CONFIRMED, *FAILURES)
"""Engaged and decided."""

ENGAGED: tuple[DeviceState, ...] = (*IN_PROGRESS, *RESOLVED)
"""The denominator: devices that took the offer. Waiting, skipped and deferred devices are in no denominator."""

NOT_ON_TRIAL: tuple[DeviceState, ...] = (S.QUEUED, S.SKIPPED, S.SUPERSEDED, S.CANCELED, S.ROLLED_BACK)
"""A roll back has nothing (more) to do for these."""

ENVIRONMENT_REASONS: frozenset[str] = frozenset(
    {"offline", "lock", "battery", "power", "disk", "user", "not_accepted", "transport", "download", "timeout_download"}
)
"""Reasons that say nothing about the model: the device is deferred, the wave waits for others, nobody is blamed.

Any other reason, known or not, counts against the release: an unknown failure must never pass a gate.
"""


def is_model_reason(reason: str) -> bool:
    """Whether a failure for ``reason`` counts against the release."""
    return reason not in ENVIRONMENT_REASONS


_ALWAYS = frozenset({S.ROLLING_BACK, S.CANCELED, S.SUPERSEDED})
_OUTCOMES = frozenset({S.CONFIRMED, S.FAILED, S.ROLLED_BACK_LOCAL, S.UNRESPONSIVE, S.DEFERRED})


def _forward(state: DeviceState) -> frozenset[DeviceState]:
    return frozenset(IN_PROGRESS[IN_PROGRESS.index(state) + 1 :]) | _OUTCOMES | _ALWAYS


MOVES: dict[DeviceState, frozenset[DeviceState]] = {
    S.QUEUED: frozenset({S.OFFERED, S.SKIPPED}) | _ALWAYS,
    S.OFFERED: frozenset({S.QUEUED, *IN_PROGRESS}) | _OUTCOMES | _ALWAYS,
    # A deferred device keeps its offer and takes it up when it can.
    S.DEFERRED: (frozenset({S.QUEUED, *IN_PROGRESS}) | _OUTCOMES | _ALWAYS) - {S.DEFERRED},
    **{state: _forward(state) for state in IN_PROGRESS},
    S.CONFIRMED: frozenset({S.REGRESSED}) | _ALWAYS,
    # A silent device that speaks again is counted as what it turns out to be.
    S.UNRESPONSIVE: frozenset({S.CONFIRMED, S.FAILED, S.ROLLED_BACK_LOCAL}) | _ALWAYS,
    S.FAILED: _ALWAYS,
    S.ROLLED_BACK_LOCAL: _ALWAYS,
    S.REGRESSED: _ALWAYS,
    S.ROLLING_BACK: frozenset({S.ROLLED_BACK, S.CANCELED, S.SUPERSEDED}),
    # It had never said that it took the offer, and is found on the halted bundle after all.
    S.CANCELED: frozenset({S.ROLLING_BACK}),
    S.ROLLED_BACK: frozenset(),
    S.SKIPPED: frozenset(),
    S.SUPERSEDED: frozenset(),
}
"""Legal moves of one device. Anything else is refused, loudly, with the tallies left as they were."""


def is_legal(previous: DeviceState, new: DeviceState) -> bool:
    """Whether a device may move from ``previous`` to ``new``."""
    return new in MOVES[previous]
