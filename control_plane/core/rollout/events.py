"""What can happen to a rollout. Every event carries its time; nothing here reads a clock."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.core.gates import GateResult
from control_plane.core.states import DeviceState


@dataclass(frozen=True)
class Approved:
    """A person approved the spec with this digest. The creator's own approval and a stale digest are refused."""

    actor: str
    spec_sha256: str
    at_ms: int


@dataclass(frozen=True)
class Rejected:
    """A person refused to approve."""

    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True)
class Started:
    """The scheduled rollout begins with its first wave."""

    at_ms: int
    actor: str = ""


@dataclass(frozen=True)
class DeviceMoved:
    """``count`` devices of one wave and stratum moved; made by the shell in the transaction that moved the rows.

    A report that moves no row makes no event: that is how a duplicate becomes nothing.
    """

    wave: int
    stratum: str
    previous: DeviceState
    new: DeviceState
    at_ms: int
    reason: str = ""
    device: str = ""
    count: int = 1


@dataclass(frozen=True)
class Ticked:
    """Time passed."""

    at_ms: int


@dataclass(frozen=True)
class GateJudged:
    """The answer to ``RequestJudgement``; of another wave or look it is stale and changes nothing."""

    wave: int
    look: int
    results: tuple[GateResult, ...]
    evidence_sha256: str
    at_ms: int


@dataclass(frozen=True)
class PauseRequested:
    """A person wants it to wait: offers nobody took yet are recalled."""

    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True)
class Resumed:
    """A person lets it go on. The wave is offered and watched again; it is never promoted by this."""

    actor: str
    at_ms: int


@dataclass(frozen=True)
class Overridden:
    """A person promotes a wave that gates could not decide. A wave that failed cannot be promoted."""

    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True)
class HaltRequested:
    """A person, or an alert, stops it and rolls every exposed device back."""

    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True)
class AbortRequested:
    """A person stops it where it stands: nobody new, nobody back."""

    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True)
class SupersededBy:
    """A newer rollout took over its devices."""

    rollout: str
    at_ms: int


OperatorEvent = (
    Approved
    | Rejected
    | Started
    | PauseRequested
    | Resumed
    | Overridden
    | HaltRequested
    | AbortRequested
    | SupersededBy
)
Event = OperatorEvent | DeviceMoved | Ticked | GateJudged
