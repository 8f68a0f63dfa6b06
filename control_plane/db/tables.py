"""Every table, as SQLModel classes. Queries return core values, never these.

Times are UTC epoch milliseconds in 64-bit integers, so that SQLite and PostgreSQL agree to the bit. JSON is stored as
text in canonical form: it is written whole and read whole, and never queried by content.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from control_plane.db.columns import ms as _ms
from control_plane.db.columns import serial as _serial
from control_plane.db.columns import text as _text
from control_plane.db.command_tables import DeviceCommand as DeviceCommand
from control_plane.db.command_tables import DiagnosisPart as DiagnosisPart


class Release(SQLModel, table=True):
    """A bundle the registry knows. Stages: registered -> approved -> production -> retired (or rejected)."""

    __tablename__ = "release"
    __table_args__ = (
        UniqueConstraint("team", "model", "version"),
        UniqueConstraint("team", "model", "release_counter"),
    )

    sha256: str = Field(primary_key=True, max_length=64)
    team: str = Field(index=True)
    model: str
    version: str
    release_counter: int = Field(sa_column=Column(BigInteger, nullable=False))
    channel: str
    kind: str = "model"
    stage: str = "registered"
    length: int
    manifest_json: str = Field(sa_column=_text())
    baseline_sha256: str = ""
    publisher: str
    published_ms: int = Field(sa_column=_ms())
    approver: str = ""
    approved_ms: int | None = Field(default=None, sa_column=_ms(nullable=True))
    comment: str = Field(default="", sa_column=_text())


class RevokedBundle(SQLModel, table=True):
    """A bundle that signed metadata forbids; a copy for queries, brought up to date by ``services.revocations``."""

    __tablename__ = "revoked_bundle"

    sha256: str = Field(primary_key=True, max_length=64)
    reason: str = Field(default="", sa_column=_text())
    strength: int
    at_ms: int = Field(sa_column=_ms())
    noted_ms: int = Field(sa_column=_ms())


class Device(SQLModel, table=True):
    """One installed agent: identity and the twin's last reported state."""

    __tablename__ = "device"

    id: str = Field(primary_key=True, max_length=64)
    hardware: str = Field(default="", index=True)
    labels_json: str = Field(default="{}", sa_column=_text())
    public_key_pem: str = Field(sa_column=_text())
    next_public_key_pem: str = Field(default="", sa_column=_text())  # renewed, not yet used by the device
    certificate_pem: str = Field(default="", sa_column=_text())
    certificate_serial: str = ""
    certificate_expires_ms: int | None = Field(default=None, sa_column=_ms(nullable=True))
    state: str = "enrolled"  # pending | enrolled | revoked | retired
    enrolled_ms: int = Field(sa_column=_ms())
    last_seen_ms: int | None = Field(default=None, sa_column=_ms(nullable=True, index=True))
    session: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    beat: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    presence: str = ""  # hint only: online | going_offline | lost
    reported_gen: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    reported_json: str = Field(default="", sa_column=_text())
    cohort: str = Field(default="default", index=True)
    tier: str = "real"
    serial: str = ""  # the hardware's serial number, as it said at enrolment
    sighting_json: str = Field(default="", sa_column=_text())  # core.clones.Sighting


class DeviceCertificate(SQLModel, table=True):
    """Every certificate a device ever had: renewals overlap, so revoking one device forbids several serials."""

    __tablename__ = "device_certificate"

    serial: str = Field(primary_key=True, max_length=64)
    device: str = Field(foreign_key="device.id", index=True)
    issued_ms: int = Field(sa_column=_ms())
    expires_ms: int = Field(sa_column=_ms())
    revoked_ms: int | None = Field(default=None, sa_column=_ms(nullable=True, index=True))
    listed_ms: int | None = Field(default=None, sa_column=_ms(nullable=True))  # on the list and the session ended


class PendingEnrolment(SQLModel, table=True):
    """A key that asked to become a device without a token; it is nobody until a person approves it."""

    __tablename__ = "pending_enrolment"

    fingerprint: str = Field(primary_key=True, max_length=64)  # sha256 of the key's SubjectPublicKeyInfo, DER
    public_key_pem: str = Field(sa_column=_text())
    name: str = ""
    hardware: str = ""
    serial: str = ""
    labels_json: str = Field(default="{}", sa_column=_text())
    state: str = "pending"  # pending | approved | denied
    asked_ms: int = Field(sa_column=_ms())
    last_ms: int = Field(sa_column=_ms(index=True))
    decided_by: str = ""
    device: str = ""


class EnrolToken(SQLModel, table=True):
    """A claim token; only its hash is kept."""

    __tablename__ = "enrol_token"

    id: str = Field(primary_key=True)
    token_sha256: str = Field(unique=True)
    uses_left: int
    expires_ms: int = Field(sa_column=_ms())
    hardware: str = ""
    labels_json: str = Field(default="{}", sa_column=_text())
    device: str = ""  # bound to one device id where not empty
    serial: str = Field(default="", index=True)  # bound to one hardware serial number where not empty
    key_sha256: str = ""  # bound to one key (sha256 of SubjectPublicKeyInfo, DER) where not empty
    created_by: str
    created_ms: int = Field(sa_column=_ms())


class Desired(SQLModel, table=True):
    """The truth of what a device is asked to run; the retained message is a cache of ``document``."""

    __tablename__ = "desired"

    device: str = Field(primary_key=True, foreign_key="device.id")
    gen: int = Field(sa_column=Column(BigInteger, nullable=False))
    models_json: str = Field(default="{}", sa_column=_text())
    rollout: str = ""
    canary: bool = False
    profile_json: str = Field(default="{}", sa_column=_text())
    document: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    expires_ms: int = Field(default=0, sa_column=_ms())
    published_gen: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, index=True))
    published_ms: int = Field(default=0, sa_column=_ms())
    changed_ms: int = Field(default=0, sa_column=_ms())


class RolloutRow(SQLModel, table=True):
    """A rollout: its immutable spec, plan and policy, and the reconciler's state."""

    __tablename__ = "rollout"

    id: str = Field(primary_key=True)
    team: str = Field(index=True)
    model: str
    bundle_sha256: str = Field(foreign_key="release.sha256")
    spec_json: str = Field(sa_column=_text())
    spec_sha256: str
    plan_json: str = Field(default="", sa_column=_text())
    state_json: str = Field(default="", sa_column=_text())
    phase: str = Field(index=True)
    reason: str = Field(default="", sa_column=_text())
    # ``version`` rises when what a person steers by changes (phase, wave, approvals): compare-and-set, the ETag.
    # ``revision`` rises with every change, each device's move included.
    version: int = Field(default=1, sa_column=Column(BigInteger, nullable=False))
    revision: int = Field(default=1, sa_column=Column(BigInteger, nullable=False))
    creator: str
    approver: str = ""
    created_ms: int = Field(sa_column=_ms())
    updated_ms: int = Field(sa_column=_ms())
    next_timer_ms: int | None = Field(default=None, sa_column=_ms(nullable=True, index=True))


class DeviceExecution(SQLModel, table=True):
    """One device in one rollout; per-device outcomes are these rows, never part of the reconciler's state."""

    __tablename__ = "device_execution"
    __table_args__ = (
        UniqueConstraint("rollout", "device"),
        Index("ix_execution_wave", "rollout", "wave", "state"),
        Index("ix_execution_device", "device", "active"),
    )

    id: int | None = Field(default=None, sa_column=_serial())
    rollout: str = Field(foreign_key="rollout.id")
    device: str = Field(foreign_key="device.id")
    wave: int
    stratum: str = ""
    state: str = "queued"
    reason: str = ""
    active: bool = True  # the rollout is not over for this device
    generation: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    execution_json: str = Field(default="{}", sa_column=_text())  # core Execution, whole
    previous_sha256: str = ""  # previous-good before this rollout touched the device
    previous_json: str = Field(default="{}", sa_column=_text())  # its desired models before
    variant: str = ""
    updated_ms: int = Field(default=0, sa_column=_ms())
    deadline_ms: int | None = Field(default=None, sa_column=_ms(nullable=True, index=True))


class RawMessage(SQLModel, table=True):
    """Every exactly-once message, kept 24-72 h. (device, boot_epoch, seq) is what makes a redelivery no event."""

    __tablename__ = "raw_message"
    __table_args__ = (Index("ix_raw_received", "received_ms"),)

    device: str = Field(primary_key=True)
    boot_epoch: str = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    leaf: str
    received_ms: int = Field(sa_column=_ms())
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class SequenceMark(SQLModel, table=True):
    """Contiguous watermark of a device's spool: every seq <= ``upto_seq`` is stored."""

    __tablename__ = "sequence_mark"

    device: str = Field(primary_key=True)
    boot_epoch: str = Field(primary_key=True)
    upto_seq: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    max_seq: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    stored: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


class DeviceEvent(SQLModel, table=True):
    """A device's timeline, one row an ``up/event``."""

    __tablename__ = "device_event"
    __table_args__ = (Index("ix_event_device", "device", "id"),)

    id: int | None = Field(default=None, sa_column=_serial())
    device: str
    boot_epoch: str
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    at_ms: int = Field(sa_column=_ms())
    received_ms: int = Field(sa_column=_ms())
    kind: str
    model: str = ""
    sha256: str = ""
    code: str = ""
    detail: str = Field(default="", sa_column=_text())
    data_json: str = Field(default="{}", sa_column=_text())


class DeviceWindow(SQLModel, table=True):
    """Counters of one device for one bundle in one bucket of time: what gates compare. Merged exactly on insert."""

    __tablename__ = "device_window"
    __table_args__ = (Index("ix_window_bucket", "model", "bucket_ms"),)

    device: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    bundle_sha256: str = Field(primary_key=True)
    bucket_ms: int = Field(primary_key=True, sa_type=BigInteger)
    windows: int = 0
    ok: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    errors: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    rejects: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    classes_json: str = Field(default="[]", sa_column=_text())
    latency_json: str = Field(default="{}", sa_column=_text())


class SketchRollup(SQLModel, table=True):
    """Merged sketch columns of a cohort; ``body`` is a MessagePack ``Window``."""

    __tablename__ = "sketch_rollup"

    model: str = Field(primary_key=True)
    bundle_sha256: str = Field(primary_key=True)
    baseline_id: str = Field(primary_key=True)
    cohort: str = Field(primary_key=True)
    bucket_ms: int = Field(primary_key=True, sa_type=BigInteger)
    windows: int = 0
    devices: int = 0
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class DriftStateRow(SQLModel, table=True):
    """The drift core's state for one (model, bundle, baseline, cohort)."""

    __tablename__ = "drift_state"

    model: str = Field(primary_key=True)
    bundle_sha256: str = Field(primary_key=True)
    baseline_id: str = Field(primary_key=True)
    cohort: str = Field(primary_key=True)
    judged_ms: int = Field(default=0, sa_column=_ms())
    state_json: str = Field(default="{}", sa_column=_text())
    verdict_json: str = Field(default="{}", sa_column=_text())


class Alert(SQLModel, table=True):
    """An alert; ``fingerprint`` = sha256 of its sorted labels. States: firing | acknowledged | resolved."""

    __tablename__ = "alert"
    __table_args__ = (Index("ix_alert_fingerprint", "fingerprint", "state"),)

    id: int | None = Field(default=None, sa_column=_serial())
    fingerprint: str
    name: str
    severity: str
    state: str = "firing"
    labels_json: str = Field(sa_column=_text())
    summary: str = Field(sa_column=_text())
    detail_json: str = Field(default="{}", sa_column=_text())
    core_json: str = Field(default="{}", sa_column=_text())
    first_ms: int = Field(sa_column=_ms())
    last_ms: int = Field(sa_column=_ms())
    count: int = 1


class Decision(SQLModel, table=True):
    """The one append-only, hash-chained log: audit, decisions and gate evaluations. Written by one writer."""

    __tablename__ = "decision"

    id: int | None = Field(default=None, sa_column=_serial())
    at_ms: int = Field(sa_column=_ms())
    kind: str = Field(index=True)  # audit | decision | gate
    actor: str
    action: str
    subject: str = Field(index=True)
    body_json: str = Field(sa_column=_text())
    previous_hash: str
    hash: str


class OperatorToken(SQLModel, table=True):
    """A scoped, expiring operator token; only its hash is kept. Roles: viewer < operator < approver < admin."""

    __tablename__ = "operator_token"

    id: str = Field(primary_key=True)
    token_sha256: str = Field(unique=True)
    principal: str
    role: str
    teams_json: str = Field(default='["*"]', sa_column=_text())
    created_ms: int = Field(sa_column=_ms())
    expires_ms: int = Field(sa_column=_ms())
    revoked_ms: int | None = Field(default=None, sa_column=_ms(nullable=True))


class IdempotencyKey(SQLModel, table=True):
    """An answer kept for a repeated request; unique per principal and key."""

    __tablename__ = "idempotency_key"

    principal: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_sha256: str
    status: int
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_ms: int = Field(sa_column=_ms())


class Outbox(SQLModel, table=True):
    """Something to tell the outside world, written in the transaction that decided it."""

    __tablename__ = "outbox"

    id: int | None = Field(default=None, sa_column=_serial())
    kind: str
    key: str = Field(unique=True)
    body_json: str = Field(sa_column=_text())
    created_ms: int = Field(sa_column=_ms())
    due_ms: int = Field(sa_column=_ms(index=True))
    attempts: int = 0
    delivered_ms: int | None = Field(default=None, sa_column=_ms(nullable=True))


class DeadLetter(SQLModel, table=True):
    """Bytes that could not be read (unknown version, garbage), set aside and still acknowledged."""

    __tablename__ = "dead_letter"

    id: int | None = Field(default=None, sa_column=_serial())
    device: str
    leaf: str
    code: str
    received_ms: int = Field(sa_column=_ms())
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class UsedProof(SQLModel, table=True):
    """A request proof that was used, kept until its nonce has expired, so that it works once."""

    __tablename__ = "used_proof"

    device: str = Field(primary_key=True)
    jti: str = Field(primary_key=True)
    expires_ms: int = Field(sa_column=_ms(index=True))
