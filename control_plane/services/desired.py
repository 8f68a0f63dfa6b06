"""What each device is asked to run: the truth behind the retained message and ``GET /v1/device/desired``.

``gen`` only rises, and only when what is asked changes; the signed document is a cache made on demand. Publishing is
level-triggered: every device whose ``published_gen`` is behind ``gen`` is still to be told, whatever happened before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from sqlalchemy import update
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from bundles.wire.messages import Desired as DesiredMessage
from bundles.wire.messages import DesiredModel, Profile
from control_plane.db.tables import Desired
from control_plane.errors import NotFound

LIFE_MS = 30 * 24 * 3600 * 1000
"""Life of a signed document (02-trust: director, 30 d); signed again past half of it, keeping ``gen``."""

Sign = Callable[[DesiredMessage], bytes]


def current_models(session: Session, device: str) -> dict[str, DesiredModel]:
    """Return what ``device`` is asked to run, by ``team/model``; empty where it was never asked."""
    row = session.get(Desired, device)
    return _models(row.models_json) if row else {}


def set_desired(
    session: Session,
    device: str,
    models: Mapping[str, DesiredModel],
    *,
    rollout: str,
    canary: bool,
    profile: Profile,
    now_ms: int,
) -> int:
    """Ask ``device`` to run ``models``; return the generation that says so.

    The same request again keeps the generation. A changed one raises it and empties the document, so that it is
    signed anew and told to the device.
    """
    row = session.get(Desired, device, with_for_update=True)
    asked = {
        "models_json": canonical_json(dict(models)).decode(),
        "rollout": rollout,
        "canary": canary,
        "profile_json": canonical_json(profile).decode(),
    }
    if row is not None and all(getattr(row, name) == value for name, value in asked.items()):
        return row.gen
    if row is None:
        row = Desired(device=device, gen=0)
    for name, value in asked.items():
        setattr(row, name, value)
    row.gen += 1
    row.document, row.expires_ms, row.changed_ms = b"", 0, now_ms
    session.add(row)
    session.flush()
    return row.gen


def ensure_desired(session: Session, device: str, profile: Profile, now_ms: int) -> int:
    """Give a newly enrolled ``device`` its first, empty document; return its generation."""
    row = session.get(Desired, device)
    if row is not None:
        return row.gen
    return set_desired(session, device, {}, rollout="", canary=False, profile=profile, now_ms=now_ms)


def signed_document(session: Session, device: str, now_ms: int) -> tuple[bytes, str] | None:
    """Return the document of ``device`` and its ETag as ``document_for`` left them; None where it has to be signed."""
    row = session.get(Desired, device)
    if row is None or not row.document or row.expires_ms - now_ms < LIFE_MS // 2:
        return None
    return row.document, f"{row.gen}.{row.expires_ms}"


def document_for(session: Session, device: str, sign: Sign, now_ms: int) -> tuple[bytes, str]:
    """Return the signed document of ``device`` and its ETag ``"gen.expires"``; signs and stores it where needed.

    Raises:
        NotFound: ``DESIRED_UNKNOWN`` where the device was never enrolled.
    """
    row = session.get(Desired, device, with_for_update=True)
    if row is None:
        raise NotFound(f"No desired state is known for {device!r}.", code="DESIRED_UNKNOWN", remedy="Enrol it first.")
    if not row.document or row.expires_ms - now_ms < LIFE_MS // 2:
        message = DesiredMessage(
            device=device,
            gen=row.gen,
            issued=now_ms,
            expires=now_ms + LIFE_MS,
            models=_models(row.models_json),
            rollout=row.rollout,
            canary=row.canary,
            profile=msgspec.json.decode(row.profile_json, type=Profile),
        )
        row.document, row.expires_ms = sign(message), message.expires
        row.published_gen = min(row.published_gen, row.gen - 1)  # a later expiry is worth telling too
        session.add(row)
        session.flush()
    return row.document, f"{row.gen}.{row.expires_ms}"


def unpublished(session: Session, limit: int) -> list[str]:
    """Return up to ``limit`` devices that have not been told their newest generation, longest waiting first."""
    return list(
        session.exec(
            select(Desired.device)
            .where(col(Desired.gen) > col(Desired.published_gen))
            .order_by(col(Desired.changed_ms), col(Desired.device))
            .limit(limit)
        )
    )


def aging(session: Session, now_ms: int, limit: int) -> list[str]:
    """Return up to ``limit`` devices whose signed document is past half of its life."""
    return list(
        session.exec(
            select(Desired.device)
            .where(col(Desired.expires_ms) > 0, col(Desired.expires_ms) < now_ms + LIFE_MS // 2)
            .order_by(col(Desired.expires_ms))
            .limit(limit)
        )
    )


def mark_published(session: Session, device: str, gen: int, now_ms: int) -> None:
    """Note that generation ``gen`` was handed to the broker; never lowers what was noted before."""
    row = session.get(Desired, device, with_for_update=True)
    if row is not None and gen > row.published_gen:
        row.published_gen, row.published_ms = gen, now_ms
        session.add(row)


def needs_republish(session: Session, device: str) -> None:
    """Have the document of ``device`` told again, because its cache on the way may be gone."""
    row = session.get(Desired, device, with_for_update=True)
    if row is not None and row.published_gen:
        row.published_gen = 0
        session.add(row)


def sign_again(session: Session) -> None:
    """Have every document signed anew and told again, generations as they are: the director's key was exchanged."""
    session.exec(update(Desired).values(document=b"", expires_ms=0, published_gen=0))


def republish_all(session: Session) -> None:
    """Have every document told again: the broker started anew and may have lost its retained messages."""
    session.exec(update(Desired).values(published_gen=0))


def _models(text: str) -> dict[str, DesiredModel]:
    return msgspec.json.decode(text, type=dict[str, DesiredModel])
