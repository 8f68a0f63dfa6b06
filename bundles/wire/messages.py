"""The messages themselves, as structs. Every message carries ``v``; readers keep silent about unknown fields.

Times are UTC epoch milliseconds by the sender's wall clock. Upward messages that must arrive exactly once
(``Event``, ``Telemetry``) carry (``boot_epoch``, ``seq``): ``boot_epoch`` is made with the spool file (64 random bits,
16 hex digits) and ``seq`` is given at first send; the pair and the device are unique for ever.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bundles.sketch.form import Window

MESSAGE_VERSION = 1


def _version() -> int:
    """Default of every ``v``. A factory's value is always written out, where a plain default would be left out."""
    return MESSAGE_VERSION


def _desired_type() -> str:
    return "wavegate-desired"


Phase = Literal[
    "idle",  # runs what is desired, or has nothing to run
    "accepted",
    "downloading",
    "verified",
    "staged",
    "activating",
    "probation",
    "confirmed",
    "failed",
    "deferred",
    "rolled_back",
]


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """Timing, signed inside desired. All in seconds. The demo is a faster profile and nothing else."""

    heartbeat_s: float = 60.0
    report_s: float = 3600.0
    canary_report_s: float = 300.0
    probation_s: float = 120.0
    accept_s: float = 900.0
    download_s: float = 1800.0
    activate_s: float = 600.0
    poll_s: float = 1800.0
    v: int = msgspec.field(default_factory=_version)


class DesiredModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one model of a device should be.

    Attributes:
        target: TUF target path of the bundle.
        sha256: bundle digest (of ``bundle.json``).
        length: bytes of ``bundle.json``.
        counter: its release counter.
        variant: reserved: a variant the control plane insists on; empty = the device chooses.
        stage: ``run``, or ``shadow`` (reserved).
        parameters: reserved: run-time parameters.
    """

    target: str
    sha256: str
    length: int
    counter: int
    variant: str = ""
    stage: Literal["run", "shadow"] = "run"
    parameters: dict[str, Any] = {}


class Desired(msgspec.Struct, frozen=True, omit_defaults=True, rename={"type_": "_type"}):
    """The signed part of the one desired document.

    Attributes:
        device: whom it is for.
        gen: only rises. The same gen may be re-signed with later ``issued`` and ``expires`` and nothing else changed.
        issued: ms.
        expires: ms; never judged for what is already installed.
        models: by ``team/model``. An empty table asks for nothing to run.
        rollout: id of the rollout that set this, empty if none.
        canary: the device reports at ``canary_report_s``.
        profile: timing.
        trust_version: hint: version of the newest timestamp role, so a device knows when to look.
    """

    device: str
    gen: int
    issued: int
    expires: int
    models: dict[str, DesiredModel]
    rollout: str = ""
    canary: bool = False
    profile: Profile = Profile()
    trust_version: int = 0
    v: int = msgspec.field(default_factory=_version)
    type_: str = msgspec.field(default_factory=_desired_type)


class Signature(msgspec.Struct, frozen=True):
    """A signature in TUF's form: key id and hex signature."""

    keyid: str
    sig: str


class SignedDocument(msgspec.Struct, frozen=True):
    """Envelope of a signed document; ``signed`` keeps the exact bytes the signatures are over."""

    signed: msgspec.Raw
    signatures: list[Signature]


class ModelReported(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device says of one of its models.

    Attributes:
        sha256: the bundle that answers now; empty if none.
        version: its version.
        counter: its release counter.
        variant: the variant that runs.
        runtime: inference runtime and its version, such as ``onnxruntime 1.32.0``.
        accelerator: where it runs, verified, such as ``cpu``.
        previous_sha256: the bundle a roll back would return to; empty if none.
        phase: where the newest instruction stands.
        target_sha256: the bundle of that instruction.
        reason: code why it failed, was deferred or rolled back.
        detail: one sentence for people.
        attempt: activations tried of that bundle.
        since_ms: when this phase began.
        floor: the device's release-counter floor.
        healthy: the daemon's own judgement of the answering model.
        safe_mode: ``keep_with_alarm``, ``constant`` or ``stop``: the model is revoked and nothing may stand in for it;
            empty = it is not.
        revoked: how trust stands to the committed bundle: ``warned`` (revoked by too few to stop it), ``revoked``;
            empty = clear.
    """

    sha256: str = ""
    version: str = ""
    counter: int = 0
    variant: str = ""
    runtime: str = ""
    accelerator: str = ""
    previous_sha256: str = ""
    phase: Phase = "idle"
    target_sha256: str = ""
    reason: str = ""
    detail: str = ""
    attempt: int = 0
    since_ms: int = 0
    floor: int = 0
    healthy: bool = True
    safe_mode: str = ""
    revoked: str = ""


class Reported(msgspec.Struct, frozen=True, omit_defaults=True):
    """The heartbeat: the whole reported state. The newest replaces the one before; it is never spooled.

    Attributes:
        device: id.
        boot_epoch: of the spool.
        session: rises with every start of the agent; orders heartbeats together with ``beat``.
        beat: counts heartbeats within the session.
        at_ms: device's clock.
        uptime_ms: monotonic, since the agent started.
        gen: generation applied or being worked on.
        models: by ``team/model``.
        hardware: hardware class, for variants and strata.
        runtimes: usable runtimes, in order of preference.
        labels: traits set on the device, such as ``site``.
        agent_version: of this distribution.
        spool_pending: rows waiting for an application ack.
        spool_dropped: rows dropped for lack of room, ever.
        tier: ``real`` or ``virtual`` (simulated devices say so).
        trust_age_s: age of the newest verified timestamp.
        trust_level: ``fresh``; ``warn`` from one life of a timestamp on, ``alarm`` from three on.
        disk_free_bytes: what the agent may still write; None = not known.
        disk_reserve_bytes: of that, what it keeps for itself and the rest of the device.
        memory_available_bytes: what can be had without swapping; None = not known.
    """

    device: str
    boot_epoch: str
    session: int
    beat: int
    at_ms: int
    uptime_ms: int
    gen: int
    models: dict[str, ModelReported]
    hardware: str = ""
    runtimes: list[str] = []
    labels: dict[str, str] = {}
    agent_version: str = ""
    spool_pending: int = 0
    spool_dropped: int = 0
    tier: Literal["real", "virtual"] = "real"
    trust_age_s: int = 0
    trust_level: str = "fresh"
    disk_free_bytes: int | None = None
    disk_reserve_bytes: int | None = None
    memory_available_bytes: int | None = None
    v: int = msgspec.field(default_factory=_version)


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A transition or incident on the device, delivered exactly once.

    Attributes:
        kind: such as ``phase``, ``refused``, ``degraded``, ``crash``, ``rolled_back``, ``identity_conflict``.
        model: ``team/model``, empty if the event is about the device.
        sha256: bundle concerned.
        code: stable reason code.
        detail: one sentence.
        data: plain values.
        session: start of the agent in which it happened, 0 = not said.
        uptime_ms: monotonic, since that start: what ``at_ms`` is worth where the clock jumped.
    """

    device: str
    boot_epoch: str
    seq: int
    event_id: str
    at_ms: int
    kind: str
    model: str = ""
    sha256: str = ""
    gen: int = 0
    code: str = ""
    detail: str = ""
    data: dict[str, Any] = {}
    session: int = 0
    uptime_ms: int = 0
    v: int = msgspec.field(default_factory=_version)


class Telemetry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sketch window on its way up.

    Attributes:
        sent_ms: device's clock at the first send; a resent row has the same bytes.
        window: what was counted.
        session: start of the agent in which the window (of merged ones, the last) was cut, 0 = not said.
        uptime_ms: monotonic, since that start, when it was cut.
    """

    device: str
    boot_epoch: str
    seq: int
    sent_ms: int
    window: Window
    session: int = 0
    uptime_ms: int = 0
    v: int = msgspec.field(default_factory=_version)


class Presence(msgspec.Struct, frozen=True, omit_defaults=True):
    """Birth, ``going_offline``, or (as the will) ``lost``. A hint only: offline is decided by missed heartbeats."""

    device: str
    session: int
    at_ms: int
    state: Literal["online", "going_offline", "lost"]
    reason: str = ""
    sha256: dict[str, str] = {}
    v: int = msgspec.field(default_factory=_version)


class SequenceRange(msgspec.Struct, frozen=True):
    """``n`` rows from ``seq`` on that were dropped on the device after they had been sent."""

    boot_epoch: str
    seq: int
    n: int


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """The application ack, sent after the database commit; the device deletes from its spool only on this.

    Attributes:
        boot_epoch: which spool.
        upto_seq: every seq <= this is stored (or was declared dropped).
        missing: seqs <= the highest stored that are not stored: send them again.
        also: seqs > ``upto_seq`` that are stored.
        commands: how many commands wait at ``GET /v1/device/commands``; said over HTTPS only.
    """

    boot_epoch: str
    upto_seq: int
    missing: list[int] = []
    also: list[int] = []
    commands: int = 0
    v: int = msgspec.field(default_factory=_version)


class UpEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """One upward message inside an HTTPS batch: the same leaf and the same bytes as over MQTT."""

    leaf: str
    payload: bytes


UpMessage = Reported | Event | Telemetry | Presence
