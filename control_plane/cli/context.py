"""Where a command goes and how it shows its answer. Precedence: flag > environment > profile file > default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from control_plane.cli.profiles import load
from control_plane.errors import SetUpWrong

if TYPE_CHECKING:
    from control_plane.client import Client

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Context:
    """What the root options (or their environment variables) said; empty where they said nothing."""

    url: str = ""
    token: str = ""
    profile: str = ""


def address(ctx: typer.Context) -> tuple[str, str]:
    """Return the server's address and the token, empty where none is known.

    Raises:
        SetUpWrong: as ``profiles.load``.
        NotFound: ``PROFILE_UNKNOWN``.
    """
    given = ctx.obj if isinstance(ctx.obj, Context) else Context()
    profile = load().named(given.profile)
    return given.url or profile.url or DEFAULT_URL, given.token or profile.token


@contextmanager
def connect(ctx: typer.Context) -> Iterator[Client]:
    """Open a client to the server this command line means.

    Raises:
        SetUpWrong: ``TOKEN_UNSET`` where no token is known, or as ``address``.
        NotFound: as ``address``.
    """
    url, token = address(ctx)
    if not token:
        raise SetUpWrong(
            "No operator token is known.",
            code="TOKEN_UNSET",
            remedy="Set WAVEGATE_TOKEN, or keep one with `wavegate profile set NAME --url URL --token TOKEN`.",
        )
    from control_plane.client import Client  # with httpx a third of a start; bundles and servers need neither

    with Client(url, token) as client:
        yield client
