"""The server's own keys, from a distance: the next ones it prepares, and the folder of one that is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from bundles.errors import TryAgain
from control_plane.cli.context import Context, address, connect
from control_plane.cli.output import say

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from bundles.trust.publishing.repository import OnlineRepository


def is_address(place: str) -> bool:
    """Whether ``place`` names a server that runs; else it is the data folder of one that is stopped."""
    return place.startswith(("http://", "https://"))


def data_folder(place: str) -> Path:
    """Return the data folder that ``place`` means: itself, or the one inside a ceremony's folder."""
    folder = Path(place)
    inside = folder / "server"
    return inside if (inside / "metadata").is_dir() and not (folder / "metadata").is_dir() else folder


def at(ctx: typer.Context, place: str) -> typer.Context:
    """Return ``ctx`` going to the server at ``place``, with the token it has; as it is where ``place`` is empty."""
    if place:
        _, token = address(ctx)
        ctx.obj = Context(url=place, token=token)
    return ctx


def next_keys(ctx: typer.Context, server: str, role: Literal["online", "director"]) -> dict[str, Key]:
    """Have the server prepare its next keys of ``role``; return their public halves. Asked again: the same keys.

    Args:
        ctx: tells the token.
        server: address, or data folder of a stopped server; empty = the address of ``ctx``.
        role: which keys.
    """
    from securesystemslib.signer import SSlibKey

    if not server or is_address(server):
        with connect(at(ctx, server)) as client:
            told = client.post("/api/v1/trust/keys", {"role": role})["keys"]
        return {name: SSlibKey.from_dict(key.pop("keyid"), key) for name, key in told.items()}
    from control_plane.online_keys import ROTATED_TOGETHER, OnlineKeys

    folder = data_folder(server)
    with stopped(folder):
        keys = OnlineKeys(folder / "keys")
        prepared = {name: keys.prepare(name) for name in ROTATED_TOGETHER[role]}
    say(f"The next keys wait in {folder / 'keys'}; the server uses them once they are published.")
    return prepared


@contextmanager
def stopped(folder: Path) -> Iterator[None]:
    """Keep the server of ``folder`` from being started meanwhile.

    Raises:
        TryAgain: ``SERVER_RUNNING``.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(folder / "server.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise TryAgain(
            f"A server is running on {folder}.",
            code="SERVER_RUNNING",
            remedy="Name its address instead of its folder, or stop it for the moment.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def open_repository(folder: Path, now_ms: int) -> OnlineRepository:
    """Open the repository of a stopped server, with every online key in its keys folder.

    Raises:
        AskPerson: ``TRUST_REPOSITORY``: there is none, or its keys are missing.
    """
    from bundles.trust.publishing.repository import OnlineRepository
    from control_plane.online_keys import OnlineKeys

    keys = OnlineKeys(folder / "keys")
    return OnlineRepository(folder / "metadata", keys.ring("snapshot"), keys.ring("timestamp"), lambda: now_ms)
