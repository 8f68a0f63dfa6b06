"""Every certificate of a device, keys that wait for approval, and tokens bound to a serial number or a key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and columns; the certificates known so far are taken over."""
    op.create_table(
        "device_certificate",
        sa.Column("serial", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.Column("listed_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["device.id"]),
        sa.PrimaryKeyConstraint("serial"),
    )
    op.create_index("ix_device_certificate_device", "device_certificate", ["device"])
    op.create_index("ix_device_certificate_revoked_ms", "device_certificate", ["revoked_ms"])
    op.create_table(
        "pending_enrolment",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("public_key_pem", sa.Text(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("hardware", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("labels_json", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
    op.create_index("ix_pending_enrolment_last_ms", "pending_enrolment", ["last_ms"])
    # With a default in the database, so that a server of the release before, still running, can go on writing.
    op.add_column("enrol_token", sa.Column("serial", sa.String(), nullable=False, server_default=""))
    op.add_column("enrol_token", sa.Column("key_sha256", sa.String(), nullable=False, server_default=""))
    op.create_index("ix_enrol_token_serial", "enrol_token", ["serial"])
    op.add_column("device", sa.Column("serial", sa.String(), nullable=False, server_default=""))
    op.add_column("device", sa.Column("sighting_json", sa.Text(), nullable=False, server_default=""))
    # When a retired device's certificate was revoked is not known; that it was is what counts.
    op.execute(
        "INSERT INTO device_certificate (serial, device, issued_ms, expires_ms, revoked_ms) "
        "SELECT certificate_serial, id, enrolled_ms, COALESCE(certificate_expires_ms, 0), "
        "CASE WHEN state = 'enrolled' THEN NULL ELSE enrolled_ms END FROM device WHERE certificate_serial <> ''"
    )
