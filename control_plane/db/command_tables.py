"""Tables of the commands to devices and of the support bundles they sent; part of ``tables``, which names them too."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from control_plane.db.columns import ms, text


class DeviceCommand(SQLModel, table=True):
    """One thing asked of one device. States: waiting -> done | failed | expired | withdrawn."""

    __tablename__ = "device_command"
    __table_args__ = (
        Index("ix_command_device", "device", "issued_ms"),
        Index("ix_command_waiting", "device", "state"),
        Index("ix_command_state", "state", "told_ms"),
        Index("ix_command_kept", "is_kept", "issued_ms"),
        Index("ix_command_rollout", "rollout", "wave", "failure"),
    )

    id: str = Field(primary_key=True, max_length=32)
    device: str = Field(foreign_key="device.id")
    do: str
    args_json: str = Field(default="{}", sa_column=text())
    actor: str
    why: str = Field(default="", sa_column=text())
    state: str = "waiting"
    issued_ms: int = Field(sa_column=ms())
    expires_ms: int = Field(sa_column=ms())
    told_ms: int = Field(default=0, sa_column=ms())  # last published, 0 = never
    ended_ms: int | None = Field(default=None, sa_column=ms(nullable=True))
    code: str = ""
    detail: str = Field(default="", sa_column=text())
    data_json: str = Field(default="{}", sa_column=text())
    # Of a diagnosis: what its support bundle is, by the device's word; kept once the parts fit it.
    sha256: str = ""
    length: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    is_kept: bool = False
    # Where a rollout asked by itself: for which failure of which wave (counted from 0).
    rollout: str = ""
    wave: int = 0
    failure: str = ""


class DiagnosisPart(SQLModel, table=True):
    """A piece of a support bundle, as it came."""

    __tablename__ = "diagnosis_part"

    command: str = Field(primary_key=True, foreign_key="device_command.id", max_length=32)
    number: int = Field(primary_key=True)
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
