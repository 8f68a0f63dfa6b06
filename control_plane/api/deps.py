"""What the API is handed by the composition root: a frozen bag of parts, and the small protocols they fit.

Nothing here is created on import; handlers reach the bag through ``deps_of(request)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request

from bundles.trust.drafting.expiry import Deadline
from bundles.wire.messages import Desired, Profile
from control_plane.api.fanout import Fanout
from control_plane.db.engine import Database
from control_plane.services.registry import BlobStore
from control_plane.services.trust import ServedTrust


class Clock(Protocol):
    """The server's clock."""

    def now_ms(self) -> int:
        """Return UTC epoch milliseconds."""
        ...


@dataclass(frozen=True)
class ApiSettings:
    """The part of the settings that handlers need.

    Attributes:
        max_publish_bytes: largest ``.wgb`` accepted.
        scratch: folder for uploads on their way to the store; the system's where None.
        profile: timing signed into desired documents where a rollout names none.
        public_url: address operators reach the API at, for links.
    """

    max_publish_bytes: int = 2 * 1024**3
    scratch: Path | None = None
    profile: Profile = field(default_factory=Profile)
    public_url: str = ""


@dataclass(frozen=True)
class Check:
    """One line of ``/readyz``."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Deps:
    """Every part the API uses.

    Attributes:
        db: the database.
        storage: blobs.
        clock: server clock.
        metadata: the trust repository being served.
        sign: signs a desired document with the director's key.
        random_bytes: source of randomness for tokens and ids.
        fanout: one task per process that tells SSE streams what changed.
        settings: see ``ApiSettings``.
        device_surface: router of the devices' doors (``/v1``, ``/metadata``), None in operator-only tests.
        web: router of the pages, None without them.
        readiness: further checks of ``/readyz`` (broker, CRL age...).
        commanded: told that a command was asked for, so that it is told at once.
        deadlines: what expires beside the metadata (authorities, certificates, the revocation list), by name.
    """

    db: Database
    storage: BlobStore
    clock: Clock
    metadata: ServedTrust
    sign: Callable[[Desired], bytes]
    random_bytes: Callable[[int], bytes]
    fanout: Fanout
    settings: ApiSettings = field(default_factory=ApiSettings)
    device_surface: APIRouter | None = None
    web: APIRouter | None = None
    extra: Sequence[APIRouter] = ()
    readiness: Sequence[Callable[[], Check]] = ()
    deadlines: Callable[[], dict[str, Deadline]] = dict
    commanded: Callable[[], None] = lambda: None


def deps_of(request: Request) -> Deps:
    """Return the parts the application of ``request`` was made with."""
    deps = request.app.state.deps
    assert isinstance(deps, Deps)
    return deps


DepsNow = Annotated[Deps, Depends(deps_of)]
