"""What alembic runs for each command; the connection comes from ``db.engine.Database``."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import control_plane.db.tables  # noqa: F401 - its import fills the metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by copying it
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
