"""The fleet at a glance: how many devices, which versions answer, what is under way, what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec
from sqlalchemy import func
from sqlmodel import Session, col, select

from bundles.wire.messages import Profile
from control_plane.db.queries.devices import MISSED_BEATS
from control_plane.db.tables import Alert, Desired, Device, RolloutRow


@dataclass(frozen=True)
class LiveVersion:
    """How many enrolled devices say that they answer with one bundle."""

    model: str
    sha256: str
    version: str
    devices: int


@dataclass(frozen=True)
class FleetSummary:
    """The fleet at a glance.

    Attributes:
        devices: count by state.
        online: enrolled devices heard of within three heartbeats.
        untold: devices not yet told their newest generation.
        behind: devices that work on an older generation than the newest.
        live: bundles that answer, most devices first.
        rollouts: count by phase.
        alerts: count of unresolved alerts by severity.
    """

    devices: dict[str, int]
    online: int
    untold: int
    behind: int
    live: list[LiveVersion]
    rollouts: dict[str, int]
    alerts: dict[str, int]


class _Model(msgspec.Struct):
    sha256: str = ""
    version: str = ""


class _Heartbeat(msgspec.Struct):
    models: dict[str, _Model] = {}


_heartbeat = msgspec.json.Decoder(_Heartbeat)
_profile = msgspec.json.Decoder(Profile)


def summary(session: Session, now_ms: int) -> FleetSummary:
    """Count the fleet. One pass over the devices' last heartbeats; meant for pages, not for every request."""
    states: Counter[str] = Counter()
    live: Counter[tuple[str, str, str]] = Counter()
    patience: dict[str, int] = {}
    online = untold = behind = 0
    rows = session.execute(
        select(  # type: ignore[call-overload]
            Device.state,
            Device.last_seen_ms,
            Device.reported_json,
            Device.reported_gen,
            Desired.gen,
            Desired.published_gen,
            Desired.profile_json,
        ).join(Desired, col(Desired.device) == col(Device.id), isouter=True)
    )
    for state, seen_ms, reported, reported_gen, gen, published, profile in rows:
        states[state] += 1
        if state != "enrolled":
            continue
        key = profile or "{}"
        if key not in patience:
            patience[key] = int(MISSED_BEATS * _profile.decode(key).heartbeat_s * 1000)
        online += seen_ms is not None and now_ms - seen_ms <= patience[key]
        untold += (gen or 0) > (published or 0)
        behind += (gen or 0) > reported_gen
        if reported:
            for model, said in _heartbeat.decode(reported).models.items():
                if said.sha256:
                    live[(model, said.sha256, said.version)] += 1
    return FleetSummary(
        devices=dict(states),
        online=online,
        untold=untold,
        behind=behind,
        live=[LiveVersion(*key, devices=count) for key, count in live.most_common()],
        rollouts=_count(session, col(RolloutRow.phase)),
        alerts=_count(session, col(Alert.severity), col(Alert.state) != "resolved"),
    )


def _count(session: Session, column: object, *where: object) -> dict[str, int]:
    statement = select(column, func.count()).where(*where).group_by(column)  # type: ignore[call-overload]
    return {str(name): int(count) for name, count in session.execute(statement)}
