"""The columns that every table is made of."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Text


def ms(*, nullable: bool = False, index: bool = False) -> Column[int]:
    """Return a column of a time: UTC epoch milliseconds."""
    return Column(BigInteger, nullable=nullable, index=index)


def serial() -> Column[int]:
    """Return a primary key that numbers itself."""
    # SQLite numbers rows by itself only where the type is spelled INTEGER (64 bits there); PostgreSQL's has 32.
    return Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)


def text(*, nullable: bool = False) -> Column[str]:
    """Return a column of text of any length."""
    return Column(Text, nullable=nullable)
