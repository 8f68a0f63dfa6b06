"""Back to the everyday reporting cadence once a rollout is over: canaries report often only while they are watched.

Level-triggered and in small portions: whoever is still asked to report as a canary of an ended rollout is found in the
database, a few hundred a round, so that the end of a large rollout is no storm.
"""

from __future__ import annotations

import msgspec
from sqlmodel import Session, col, select

from bundles.wire.messages import Profile
from control_plane.core.states import RolloutPhase
from control_plane.db.tables import Desired, RolloutRow
from control_plane.services import desired

A_ROUND = 200
_profile = msgspec.json.Decoder(Profile)


def calm_down(session: Session, now_ms: int) -> int:
    """Ask canaries of ended rollouts to report at the everyday cadence; return how many were asked."""
    devices = watched_for_nothing(session)
    for device in devices:
        row = session.get(Desired, device)
        assert row is not None
        models, profile = desired.current_models(session, device), _profile.decode(row.profile_json)
        desired.set_desired(session, device, models, rollout=row.rollout, canary=False, profile=profile, now_ms=now_ms)
    return len(devices)


def watched_for_nothing(session: Session) -> list[str]:
    """Return up to ``A_ROUND`` devices that report as canaries of a rollout that is over."""
    ended = [phase.value for phase in RolloutPhase if phase.is_terminal]
    statement = (
        select(Desired.device)
        .join(RolloutRow, col(RolloutRow.id) == col(Desired.rollout))
        .where(col(Desired.canary), col(RolloutRow.phase).in_(ended))
        .order_by(col(Desired.device))
        .limit(A_ROUND)
    )
    return list(session.exec(statement))
