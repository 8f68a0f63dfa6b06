"""What the updater knows of one model on this device: frozen values, all of them journalled.

Leaves the rules to ``updater`` and the bytes to ``journal``. A state is small and of bounded size: it names releases
by digest and never holds their content.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from bundles.wire.messages import DesiredModel, Phase, Profile

MAX_TRIED = 8
"""Digests whose activation attempts are remembered; the oldest is forgotten first."""
MAX_HISTORY = 20
"""Steps remembered for the person who looks at the device; the oldest is forgotten first."""


@dataclass(frozen=True)
class Release:
    """One release as the updater names it.

    Attributes:
        target: TUF target path, ``<team>/<model>/<version>/bundle.json``.
        sha256: bundle digest (of ``bundle.json``).
        length: bytes of ``bundle.json``.
        counter: release counter, compared with the floor.
        version: read from the manifest; empty before the download.
        variant: id of the variant this device runs; empty before the download (or insisted on by desired).
    """

    target: str
    sha256: str
    length: int
    counter: int
    version: str = ""
    variant: str = ""

    @classmethod
    def from_desired(cls, desired: DesiredModel) -> Release:
        """Return the release that an entry of the desired document names."""
        return cls(desired.target, desired.sha256, desired.length, desired.counter, variant=desired.variant)


@dataclass(frozen=True)
class Asked:
    """One instruction: what a generation of the desired document asks of this model.

    Attributes:
        gen: generation of the desired document.
        release: what should run; None asks for nothing to run.
        rollout: id of the rollout behind it, empty where it was set by hand.
        profile: timing.
    """

    gen: int
    release: Release | None
    rollout: str = ""
    profile: Profile = field(default_factory=Profile)


SafeMode = Literal["", "keep_with_alarm", "constant", "stop"]
"""What a bundle's manifest declares for the case that it is forbidden and nothing else may run; empty = not in it."""


@dataclass(frozen=True)
class Tried:
    """How often a digest was activated without being committed; at the limit it is denied (see ``updater``).

    Attributes:
        sha256: bundle digest.
        attempts: activations begun.
        gen: generation that asked last.
        rollout: rollout that asked last.
        reason: why the last one ended.
    """

    sha256: str
    attempts: int
    gen: int
    rollout: str
    reason: str = ""


@dataclass(frozen=True)
class Passage:
    """One step that was entered, for people; nothing is decided by it.

    Attributes:
        at_ms: when.
        step: which.
        sha256: the release it was about; empty if none.
        reason: why, where it failed, was deferred or rolled back.
        code: the error code behind the reason.
    """

    at_ms: int
    step: str
    sha256: str = ""
    reason: str = ""
    code: str = ""


Admittance = Literal["download", "activate"]
"""What conditions are asked for: bytes over the network; a change of what answers."""


class Step(StrEnum):
    """Where the updater stands; finer than the wire's phases. Values are journalled and never change meaning."""

    IDLE = "idle"
    AUTHORIZING = "authorizing"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    STAGING = "staging"
    ACTIVATING = "activating"
    PROBATION = "probation"
    REVERTING = "reverting"
    DEFERRED = "deferred"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"

    @property
    def is_rest(self) -> bool:
        """Whether nothing is under way: only a new instruction, a person or a crashing model moves on from here."""
        return self in (Step.IDLE, Step.CONFIRMED, Step.FAILED, Step.ROLLED_BACK)

    @property
    def is_before_activation(self) -> bool:
        """Whether the release at work has not touched what answers, so that it can simply be dropped."""
        return self in (Step.AUTHORIZING, Step.DOWNLOADING, Step.VERIFYING, Step.STAGING, Step.DEFERRED)

    @property
    def phase(self) -> Phase:
        """The wire's word for this step."""
        return _PHASE[self]


_PHASE: dict[Step, Phase] = {
    Step.IDLE: "idle",
    Step.AUTHORIZING: "accepted",
    Step.DOWNLOADING: "downloading",
    Step.VERIFYING: "downloading",
    Step.STAGING: "verified",
    Step.ACTIVATING: "activating",
    Step.PROBATION: "probation",
    Step.REVERTING: "activating",
    Step.DEFERRED: "deferred",
    Step.CONFIRMED: "confirmed",
    Step.FAILED: "failed",
    Step.ROLLED_BACK: "rolled_back",
}

Verdict = Literal["healthy", "unhealthy", "unknown"]


@dataclass(frozen=True)
class UpdaterState:
    """Everything the updater knows of one model.

    Attributes:
        model: ``team/model``.
        step: where it stands.
        gen: generation applied or being worked on.
        rollout: rollout behind that generation.
        profile: timing of that generation.
        target: the release of that generation; None where it asks for nothing to run.
        committed: the last release committed on this device: what a crash or a failure returns to.
        previous: the release committed before it (previous-good); its slot is kept.
        factory: the release this device was made with, as its disk tells at each start: the last one to return to.
        revert_to: while reverting: what to return to; None = nothing is to answer.
        landing: while reverting: the step to rest in afterwards.
        pending: while reverting: the instruction to take up afterwards.
        attempts: activations begun of ``target``.
        recoveries: starts of the agent while ``target`` was at work; bounds update loops after power cuts.
        deferrals: times ``target`` was put off; spaces out the next tries.
        wrong_content: times the bytes that arrived, or lay on disk, were not those promised.
        transitions: times this instruction touched what answers (``Policy.max_transitions``).
        asks: the stage that conditions are being asked for; while deferred: the stage they put off.
        history: the last steps, oldest first.
        tried: earlier digests whose attempts still count.
        floor: release-counter floor this model has earned.
        since_ms: when the step began.
        deadline_ms: when the step's wait ends; 0 = none (at rest).
        reason: why it failed, was deferred or rolled back (see ``reasons``).
        code: the error code behind ``reason``.
        detail: one sentence for people.
        tries: failed tries of the step's effect.
        retry_ms: when the effect is due again; 0 = not waiting. In probation: when health is judged next.
        verdict: last judgement in probation.
        verdict_ms: when it was made.
        has_contact: whether the control plane was heard since the activation.
        stand_in: during an update: the release asked to answer because the committed one does not; empty = none.
        revoked: digests named here that trust forbids, as last told: nothing is ever started from or returned to
            them while there is another.
        declared: the safe mode that the committed bundle declares, as last told.
        safe_mode: the safe mode this model is in: its committed bundle is forbidden, and there is no other.
    """

    model: str
    step: Step = Step.IDLE
    gen: int = 0
    rollout: str = ""
    profile: Profile = field(default_factory=Profile)
    target: Release | None = None
    committed: Release | None = None
    previous: Release | None = None
    factory: Release | None = None
    revert_to: Release | None = None
    landing: Step = Step.ROLLED_BACK
    pending: Asked | None = None
    attempts: int = 0
    recoveries: int = 0
    deferrals: int = 0
    wrong_content: int = 0
    transitions: int = 0
    asks: Admittance | Literal[""] = ""
    history: tuple[Passage, ...] = ()
    tried: tuple[Tried, ...] = ()
    floor: int = 0
    since_ms: int = 0
    deadline_ms: int = 0
    reason: str = ""
    code: str = ""
    detail: str = ""
    tries: int = 0
    retry_ms: int = 0
    verdict: Verdict = "unknown"
    verdict_ms: int = 0
    has_contact: bool = False
    stand_in: str = ""
    revoked: tuple[str, ...] = ()
    declared: SafeMode = "keep_with_alarm"
    safe_mode: SafeMode = ""

    @property
    def phase(self) -> Phase:
        """The wire's word for where this model stands."""
        return self.step.phase

    @property
    def active(self) -> Release | None:
        """The release that answers, as far as the last completed effect tells."""
        return self.target if self.step is Step.PROBATION else self.committed

    @property
    def asked_gen(self) -> int:
        """The newest generation taken, waiting ones included."""
        return self.pending.gen if self.pending else self.gen

    @property
    def named(self) -> tuple[Release, ...]:
        """Every release this state names, whatever for; some may be named twice."""
        waiting = self.pending.release if self.pending else None
        releases = (self.committed, self.previous, self.factory, self.target, self.revert_to, waiting)
        return tuple(r for r in releases if r)

    @property
    def ways_back(self) -> tuple[Release, ...]:
        """What this device may return to, best first: committed, previous, factory; each once."""
        ways: dict[str, Release] = {}
        for release in (self.committed, self.previous, self.factory):
            if release:
                ways.setdefault(release.sha256, release)
        return tuple(ways.values())

    @property
    def before_committed(self) -> Release | None:
        """The release that takes over where the committed one is given up: previous, else factory; None = neither."""
        committed = self.committed.sha256 if self.committed else ""
        return next((r for r in self.ways_back if r.sha256 != committed and not self.is_revoked(r)), None)

    def is_revoked(self, release: Release | None) -> bool:
        """Whether trust forbids ``release``, as last told."""
        return release is not None and release.sha256 in self.revoked

    @property
    def retained(self) -> frozenset[str]:
        """Bundle digests whose slots and blobs must not be collected."""
        waiting = self.pending.release if self.pending else None
        at_work = None if self.step in (Step.FAILED, Step.ROLLED_BACK) else self.target
        releases = (at_work, self.committed, self.previous, self.factory, self.revert_to, waiting)
        return frozenset(release.sha256 for release in releases if release)

    @property
    def due_ms(self) -> int:
        """When the next ``Ticked`` is needed; 0 = none."""
        return min((t for t in (self.deadline_ms, self.retry_ms) if t), default=0)

    def durable(self) -> UpdaterState:
        """Return the state without what a start of the agent forgets anyway; equal results need no journal entry."""
        return replace(self, tries=0, retry_ms=0, verdict="unknown", verdict_ms=0, has_contact=False, stand_in="")
