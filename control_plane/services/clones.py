"""Watches heartbeats for two agents with one identity, and raises the alert ``identity_conflict``."""

from __future__ import annotations

import msgspec
from sqlmodel import Session

from bundles.digest import canonical_json
from bundles.wire.messages import Reported
from control_plane.core.alerts import Finding
from control_plane.core.clones import Sighting, seen
from control_plane.db.tables import Device
from control_plane.services import alerts

ALERT = "identity_conflict"


def watch(session: Session, row: Device, message: Reported, now_ms: int) -> None:
    """Note a heartbeat of ``row``, and tell people when its identity is used twice, or is not any more."""
    before = msgspec.json.decode(row.sighting_json, type=Sighting) if row.sighting_json else Sighting()
    after = seen(before, message.boot_epoch, message.session, message.beat, now_ms)
    row.sighting_json = canonical_json(after).decode()
    session.add(row)
    if after.is_conflict == before.is_conflict:
        return
    finding = Finding(
        labels={"alert": ALERT, "device": row.id},
        is_firing=after.is_conflict,
        severity="critical",
        value=float(after.steps_back),
        sentence=f"Two agents use the identity of {row.id}: its heartbeats went back {after.steps_back} times. Find "
        f"the copy; where it may be in other hands: wavegate device revoke {row.id}, and enrol the honest one anew.",
        window_end_ms=now_ms,
    )
    detail = {"device": row.id, "boot_epochs": sorted({after.epoch, after.left} - {""}), "session": after.session}
    alerts.observe(session, finding, room="system:identity", detail=detail, now_ms=now_ms, clear_windows=1)
