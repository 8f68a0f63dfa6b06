"""Commands to devices, and the support bundles they sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, empty."""
    op.create_table(
        "device_command",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("do", sa.String(), nullable=False),
        sa.Column("args_json", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("told_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("data_json", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("is_kept", sa.Boolean(), nullable=False),
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("failure", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["device.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_command_device", "device_command", ["device", "issued_ms"])
    op.create_index("ix_command_waiting", "device_command", ["device", "state"])
    op.create_index("ix_command_state", "device_command", ["state", "told_ms"])
    op.create_index("ix_command_kept", "device_command", ["is_kept", "issued_ms"])
    op.create_index("ix_command_rollout", "device_command", ["rollout", "wave", "failure"])
    op.create_table(
        "diagnosis_part",
        sa.Column("command", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["command"], ["device_command.id"]),
        sa.PrimaryKeyConstraint("command", "number"),
    )
