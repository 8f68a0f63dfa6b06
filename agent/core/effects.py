"""What the updater asks the runner to do. Plain values; the runner holds the table from effect to handler.

Contract of the runner:

* Effects of one model are carried out strictly in the order given, one at a time. ``Journal`` must be durable before
  the next effect begins; if it cannot be written, the runner carries out nothing after it, keeps the *old* state and
  offers the same event again later.
* Every other effect may be carried out twice (a reboot repeats the step at work) and must then end the same way.
* ``Authorize``, ``Admit``, ``Download``, ``Verify``, ``Stage``, ``Activate``, ``Revert`` and ``Serve`` answer with the
  event named below or with ``EffectFailed``; an answer may come at any later time; the loop is never blocked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.state import Admittance, Release, SafeMode, UpdaterState
from bundles.wire.messages import Phase


@dataclass(frozen=True)
class Journal:
    """Make ``state`` durable (``journal.encode_state`` -> ``Store.save_journal``) before anything after it."""

    state: UpdaterState


@dataclass(frozen=True)
class Authorize:
    """Ask trust whether this device may run the release -> ``Authorized`` | ``Refused``."""

    release: Release


@dataclass(frozen=True)
class Admit:
    """Ask this device whether anything speaks against ``stage`` now -> ``Admitted`` | ``EffectFailed``.

    A window, a lock, battery, network, memory, disk: codes ``CONDITION_*`` and ``DISK_FULL``. Never asked for a way
    back, nor for the first activation on a device on which nothing answers.
    """

    release: Release
    stage: Admittance


@dataclass(frozen=True)
class Download:
    """Fetch the manifest, choose a variant, fetch its blobs; what is present is not fetched -> ``Downloaded``."""

    release: Release


@dataclass(frozen=True)
class Verify:
    """Hash manifest and files again from disk, compare with what trust listed -> ``Verified``."""

    release: Release


@dataclass(frozen=True)
class Stage:
    """Unpack into a slot, make it durable, load it and run its goldens in a child -> ``Staged`` | ``TrialFailed``."""

    release: Release


@dataclass(frozen=True)
class Activate:
    """Load in a new worker, move the pointer, swap, drain the old worker -> ``Activated``."""

    release: Release


@dataclass(frozen=True)
class Revert:
    """Like ``Activate``, back to a release this device ran before; None = nothing answers -> ``Activated``.

    ``safe_mode`` as in ``Serve``.
    """

    to: Release | None
    safe_mode: SafeMode = ""


@dataclass(frozen=True)
class Serve:
    """Make the committed release answer after a start; the pointer is set where it differs -> ``Activated``.

    The runner re-hashes the slot (in the background where it is large) and answers ``EffectFailed`` with
    ``STORE_CORRUPT`` where it does not match.

    Attributes:
        release: what to make answer.
        safe_mode: ``stop`` and ``constant``: it is forbidden; the pointer names it, and requests are refused with
            ``SAFE_MODE`` instead of being answered. Otherwise it answers.
    """

    release: Release
    safe_mode: SafeMode = ""


@dataclass(frozen=True)
class Judge:
    """Take the engine's numbers since the activation and judge them -> ``HealthSeen``."""

    sha256: str


@dataclass(frozen=True)
class Commit:
    """The release is committed: the old worker and anything kept only for a quick return may go."""

    release: Release


@dataclass(frozen=True)
class RaiseFloor:
    """Raise trust's durable floor for the model; never lowers it."""

    model: str
    counter: int


@dataclass(frozen=True)
class CollectGarbage:
    """Remove what no model needs. The runner passes the union of ``retained`` over all its states to the store."""

    keep: frozenset[str]


@dataclass(frozen=True)
class Discard:
    """Remove slot and blobs of a release that were found damaged, so that they are fetched anew."""

    release: Release


@dataclass(frozen=True)
class Cancel:
    """Stop work on a release that is no longer wanted, as far as it can be stopped; its answers will be ignored."""

    sha256: str


@dataclass(frozen=True)
class Report:
    """Tell the control plane: one ``up/event`` of kind ``phase`` through the spool, and a heartbeat soon.

    Attributes:
        phase: wire phase entered.
        sha256: release it is about; empty if none.
        reason: reason word where it failed, was deferred or rolled back.
        code: error code behind it.
        detail: one sentence.
    """

    phase: Phase
    sha256: str
    reason: str = ""
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class TellSafeMode:
    """Tell the control plane: one ``up/event`` of kind ``safe_mode``, and a heartbeat soon.

    Attributes:
        sha256: the forbidden bundle, or the one that answers again.
        mode: entered; empty = left.
    """

    sha256: str
    mode: SafeMode


@dataclass(frozen=True)
class SetTimer:
    """Send ``Ticked`` at ``at_ms``; replaces the timer set before."""

    at_ms: int


Effect = (
    Journal
    | Authorize
    | Admit
    | Download
    | Verify
    | Stage
    | Activate
    | Revert
    | Serve
    | Judge
    | Commit
    | RaiseFloor
    | CollectGarbage
    | Discard
    | Cancel
    | Report
    | TellSafeMode
    | SetTimer
)
