"""The migrations make exactly the tables that the models describe, on both databases."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlmodel import SQLModel

import control_plane.db.tables  # noqa: F401
from control_plane.db.engine import Database
from control_plane.errors import SetUpWrong


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request, tmp_path):
    if request.param == "sqlite":
        opened = Database(f"sqlite:///{tmp_path / 'new.db'}")
    else:
        opened = Database(request.getfixturevalue("empty_postgres_url"))
    yield opened
    opened.close()


def test_an_empty_database_is_brought_to_the_schema_of_the_models(empty_database):
    assert inspect(empty_database.engine).get_table_names() == []
    empty_database.upgrade()
    with empty_database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_upgrading_again_changes_nothing(database):
    before = sorted(inspect(database.engine).get_table_names())
    database.upgrade()
    assert sorted(inspect(database.engine).get_table_names()) == before


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://root@localhost/x", "nonsense"])
def test_an_address_of_another_kind_is_refused_with_a_remedy(url):
    with pytest.raises(SetUpWrong) as caught:
        Database(url)
    assert caught.value.code == "DATABASE_URL"
    assert "sqlite:////" in caught.value.remedy
