"""What a decision asks the shell to do. Each may be carried out twice without harm."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.core.gates import GateResult


@dataclass(frozen=True)
class OfferWave:
    """Set desired for every QUEUED device of the wave; feed QUEUED -> OFFERED back for each."""

    wave: int


@dataclass(frozen=True)
class TopUpWave:
    """Move devices, in plan order and online first, from later waves into ``wave``. ``OfferWave`` follows.

    The tallies have already been moved; the shell moves rows only and feeds nothing back.
    """

    wave: int
    takes: tuple[tuple[int, int], ...]
    """(wave to take from, how many)"""


@dataclass(frozen=True)
class WithdrawOffers:
    """Put desired back for OFFERED and DEFERRED devices of ``waves``; feed -> QUEUED back for each."""

    waves: tuple[int, ...]


@dataclass(frozen=True)
class RollBack:
    """Set desired back, as a new generation, for every device of ``waves`` that was ever offered the bundle.

    Feed back what ``execution.roll_back`` says: ROLLING_BACK for devices that took the offer, CANCELED for others.
    """

    waves: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class ExpireDevices:
    """Apply ``execution.expire`` to the unresolved rows of ``waves`` and feed the moves back."""

    waves: tuple[int, ...]
    now_ms: int


@dataclass(frozen=True)
class RequestJudgement:
    """Gather evidence over [since_ms, now], ``gates.judge`` it and feed ``GateJudged`` back."""

    wave: int
    look: int
    is_final: bool
    since_ms: int


@dataclass(frozen=True)
class Notify:
    """Tell people. At most once for each (rollout, wave, kind, reason)."""

    kind: str
    wave: int
    reason: str


@dataclass(frozen=True)
class Record:
    """Append to the hash chain. ``kind`` is ``gate`` for evaluations and ``decision`` for what followed."""

    kind: str
    action: str
    wave: int
    reason: str
    at_ms: int
    actor: str = ""
    look: int = 0
    results: tuple[GateResult, ...] = ()
    evidence_sha256: str = ""
    numbers: tuple[tuple[str, float | int | str], ...] = ()


Effect = OfferWave | TopUpWave | WithdrawOffers | RollBack | ExpireDevices | RequestJudgement | Notify | Record
