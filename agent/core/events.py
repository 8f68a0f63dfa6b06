"""What can happen to the updater. Every event carries the time it happened; none is trusted to arrive only once.

``at_ms`` is UTC epoch milliseconds from a clock that does not jump while the agent runs (wall clock at the agent's
start + monotonic time since): a corrected wall clock must not fire every deadline. ``draw`` is a random number in
[0, 1) for the jitter of a retry. ``sha256`` names the release an event is about, so that answers to work that was
abandoned are recognised and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.core.health import Judgement
from agent.core.state import Admittance, Asked, Release, SafeMode

EffectKind = Literal["authorize", "admit", "download", "verify", "stage", "activate", "revert", "serve"]
"""Effects that can fail; the others are retried by the runner or carry no news."""


@dataclass(frozen=True)
class Booted:
    """The agent started; always the first event. The state it meets is the one read from the journal.

    Attributes:
        active: the release that the pointer on disk names, None where there is none; adopted only where the
            journal was lost.
        factory: the release this device was made with, None where there is none; it takes the place of what the
            journal says.
    """

    at_ms: int
    active: Release | None = None
    factory: Release | None = None


@dataclass(frozen=True)
class DesiredChanged:
    """A verified desired document says something about this model (again, or anew)."""

    at_ms: int
    asked: Asked


@dataclass(frozen=True)
class Authorized:
    """Trust allows the target (steps 1-10 of the trust design)."""

    at_ms: int
    sha256: str


@dataclass(frozen=True)
class Refused:
    """Trust, or the manifest's own rules, refuse the target (codes ``TRUST_*``, ``BUNDLE_*``)."""

    at_ms: int
    sha256: str
    code: str
    detail: str = ""
    draw: float = 0.5


@dataclass(frozen=True)
class Admitted:
    """Nothing on this device speaks against ``stage`` for the release now."""

    at_ms: int
    sha256: str
    stage: Admittance


@dataclass(frozen=True)
class ConditionsChanged:
    """What puts an update off may be gone: look now, and not at the end of the wait."""

    at_ms: int


@dataclass(frozen=True)
class RetryRequested:
    """A person at the device asked to take up again what was put off, failed, or was denied here.

    Attributes:
        actor: who, for the report.
    """

    at_ms: int
    actor: str


@dataclass(frozen=True)
class Downloaded:
    """Every blob this device needs of the target is on disk.

    Attributes:
        version: from the manifest.
        variant: id of the variant this device chose.
    """

    at_ms: int
    sha256: str
    version: str
    variant: str


@dataclass(frozen=True)
class Verified:
    """Manifest and every file of the target were hashed again from disk and match."""

    at_ms: int
    sha256: str


@dataclass(frozen=True)
class Staged:
    """The target is unpacked and durable in a slot, and passed its trial in a child process."""

    at_ms: int
    sha256: str


@dataclass(frozen=True)
class TrialFailed:
    """The trial in a child process failed: the model would not work here.

    Attributes:
        code: error code, such as ``MODEL_INVALID`` or ``GOLDEN_MISMATCH``; ``reasons.reason_of`` maps it.
        reason: reason word, where the trial knows it already; empty = derived from ``code``.
    """

    at_ms: int
    sha256: str
    code: str
    detail: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Activated:
    """The release named answers now and the pointer on disk says so: the answer to Activate, Revert and Serve.

    Attributes:
        sha256: its bundle digest; empty after a Revert to nothing.
    """

    at_ms: int
    sha256: str


@dataclass(frozen=True)
class HealthSeen:
    """A judgement of the answering model, over its numbers since the activation (``health.judge``)."""

    at_ms: int
    sha256: str
    judgement: Judgement


@dataclass(frozen=True)
class ContactSeen:
    """The control plane answered: an application ack, or a 2xx to a signed request. A broker's ack is not enough."""

    at_ms: int


@dataclass(frozen=True)
class Ticked:
    """Time passed: the timer asked for by ``SetTimer`` rang, or it is later than that."""

    at_ms: int


@dataclass(frozen=True)
class EffectFailed:
    """An effect could not be carried out.

    Attributes:
        effect: which.
        sha256: release the effect was for (empty: Revert to nothing).
        code: the error's stable code.
        retryable: whether the same effect may succeed later (the error is of the ``TryAgain`` family).
        detail: one sentence.
        draw: random number in [0, 1).
        wait_ms: with a ``CONDITION_*`` code: how long until it is known to pass (a window's opening); 0 = unknown.
    """

    at_ms: int
    effect: EffectKind
    sha256: str
    code: str
    retryable: bool
    detail: str = ""
    draw: float = 0.5
    wait_ms: int = 0


@dataclass(frozen=True)
class RollbackRequested:
    """A person at the device asked to leave a release for the one before it.

    Attributes:
        actor: who, for the report.
        sha256: the release to leave, as the person saw it: asked twice, only the first counts. Empty = whichever is at
            work, or answers.
    """

    at_ms: int
    actor: str
    sha256: str = ""


@dataclass(frozen=True)
class StandingSeen:
    """Trust was asked which of the releases that the state names are forbidden. Told anew, it replaces what was said.

    The committed release counts as running (forbidden by full strength only), every other as not.

    Attributes:
        revoked: their digests; others are ignored.
        safe_mode: what the committed bundle's manifest declares; None = it cannot be read at present.
    """

    at_ms: int
    revoked: frozenset[str]
    safe_mode: SafeMode | None = None


Event = (
    Booted
    | DesiredChanged
    | Authorized
    | Admitted
    | ConditionsChanged
    | RetryRequested
    | Refused
    | Downloaded
    | Verified
    | Staged
    | TrialFailed
    | Activated
    | HealthSeen
    | ContactSeen
    | Ticked
    | EffectFailed
    | RollbackRequested
    | StandingSeen
)
