"""Tells two agents with one identity from one agent, by the order of their heartbeats.

An honest agent only goes forward: (session, beat) rises within a spool's epoch, and an epoch it has left (a new spool
file) never comes back. Two clones take turns, and each turn is a step back. A single step back is no sign: a broker or
an ingest that was killed delivers some heartbeats twice. Pure; leaves storing and telling to ``services``.
"""

from __future__ import annotations

import msgspec

STEPS_BACK = 6
"""Steps back within ``WINDOW_MS`` that no honest device makes: each needs a redelivery after something newer."""
WINDOW_MS = 3_600_000


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of a device's heartbeats.

    Attributes:
        epoch: of the last heartbeat.
        session: of the last heartbeat, which need not be the newest.
        beat: likewise.
        left: the epoch seen before this one.
        steps_back: counted since ``since_ms``.
        since_ms: when the first of them was made, server clock.
        is_conflict: whether two agents use this identity, as far as can be told.
    """

    epoch: str = ""
    session: int = 0
    beat: int = 0
    left: str = ""
    steps_back: int = 0
    since_ms: int = 0
    is_conflict: bool = False


def seen(before: Sighting, epoch: str, session: int, beat: int, now_ms: int) -> Sighting:
    """Return what is to be remembered after one more heartbeat.

    Args:
        before: what was remembered.
        epoch: the heartbeat's ``boot_epoch``.
        session: its session.
        beat: its number within the session.
        now_ms: server clock.
    """
    is_over = before.steps_back > 0 and now_ms - before.since_ms > WINDOW_MS
    steps, since_ms = (0, 0) if is_over else (before.steps_back, before.since_ms)
    is_same = epoch == before.epoch
    if is_same and (session, beat) == (before.session, before.beat):
        went_back = False  # the same one, delivered twice
    elif is_same:
        went_back = (session, beat) < (before.session, before.beat)
    else:
        went_back = epoch == before.left
    if went_back:
        steps, since_ms = steps + 1, since_ms or now_ms
    return Sighting(
        epoch=epoch,
        session=session,
        beat=beat,
        left=before.left if is_same else before.epoch,
        steps_back=steps,
        since_ms=since_ms,
        is_conflict=steps >= STEPS_BACK or (before.is_conflict and not is_over),
    )
