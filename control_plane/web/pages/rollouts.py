"""Rollouts: the list, one with its waves and gates, its devices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from bundles.digest import is_sha256
from control_plane.core.states import DeviceState, RolloutPhase
from control_plane.db.queries.decisions import DecisionView, list_decisions
from control_plane.db.queries.rollouts import (
    explain_rollout,
    list_executions,
    list_rollouts,
    rollout_unknown,
    show_rollout,
)
from control_plane.web.page import Page, Visit
from control_plane.web.query import choice, number_of, whole_number
from control_plane.web.verbs import verbs_for

PAGE_SIZE = 50
LOG_LINES = 12
CREATE = "rollout.create"
"""The one thing people do that leaves no decision beside its audit row."""


@dataclass(frozen=True)
class LogLine:
    """One decision or judgement as the page shows it.

    Attributes:
        action: a verb.
        wave: from 1; 0 where it is about none.
        verdicts: (gate, verdict) of a judgement.
        reason: in words; empty where the verdicts say it.
    """

    id: int
    at_ms: int
    action: str
    actor: str
    wave: int
    verdicts: tuple[tuple[str, str], ...]
    reason: str


def _line(record: DecisionView) -> LogLine:
    body, wave = record.body, record.body.get("wave")
    verdicts = tuple((one["gate"], one["verdict"]) for one in body.get("results") or ())
    reason = str(body.get("reason") or "")
    return LogLine(
        id=record.id,
        at_ms=record.at_ms,
        action=record.action.removeprefix("rollout."),
        actor=record.actor,
        wave=wave + 1 if isinstance(wave, int) else 0,
        verdicts=verdicts,
        # What an approval is bound to is shown once, as the spec's digest.
        reason="" if verdicts or is_sha256(reason) else reason,
    )


def _list(visit: Visit) -> dict[str, Any]:
    phase = choice(visit.query, "phase", [one.value for one in RolloutPhase])
    created_ms, _, rollout = visit.query.get("after", "").partition("~")
    after = (number_of(created_ms), rollout) if number_of(created_ms) else None
    teams = None if "*" in visit.caller.teams else visit.caller.teams
    items, following = list_rollouts(visit.session, teams=teams, phase=phase, after=after, limit=PAGE_SIZE)
    return {
        "title": "Rollouts",
        "rollouts": items,
        "phase": phase,
        "phases": [one.value for one in RolloutPhase],
        "trust": visit.trust(),
        "is_later_page": after is not None,
        "next": f"{following[0]}~{following[1]}" if following else "",
    }


def _one(visit: Visit) -> dict[str, Any]:
    rollout = visit.path["rollout"]
    detail = show_rollout(visit.session, rollout)
    _check_seen(visit, detail.rollout.team, rollout)
    records, _ = list_decisions(visit.session, subject=f"rollout:{rollout}", limit=3 * LOG_LINES)
    view = detail.rollout
    return {
        "title": f"{view.model} {view.release_version}",
        "detail": detail,
        "rollout": view,
        "story": explain_rollout(visit.session, rollout),
        "verbs": verbs_for(visit.caller, view),
        "is_own": visit.caller.name == view.creator,
        "excluded": Counter(detail.excluded.values()),
        "log": [_line(one) for one in records if one.kind != "audit" or one.action == CREATE][:LOG_LINES],
    }


def _devices(visit: Visit) -> dict[str, Any]:
    rollout, query = visit.path["rollout"], visit.query
    view = show_rollout(visit.session, rollout).rollout
    _check_seen(visit, view.team, rollout)
    states = [one.value for one in DeviceState]
    state, wave = choice(query, "state", states), min(whole_number(query, "wave"), view.waves)
    after = query.get("after") or None
    items, following = list_executions(visit.session, rollout, wave=wave, state=state, after=after, limit=PAGE_SIZE)
    return {
        "title": f"Devices of {view.model} {view.release_version}",
        "rollout": view,
        "executions": items,
        "state": state,
        "states": states,
        "wave": wave,
        "is_later_page": after is not None,
        "next": following or "",
    }


def _check_seen(visit: Visit, team: str, rollout: str) -> None:
    if not visit.caller.may_see(team):
        raise rollout_unknown(rollout)  # another team's rollout is no different from none


ROLLOUTS = Page("/rollouts", "rollouts.html", ("rollouts",), _list)
ROLLOUT = Page("/rollouts/{rollout}", "rollout.html", ("standing", "waves", "log"), _one)
ROLLOUT_DEVICES = Page("/rollouts/{rollout}/devices", "rollout_devices.html", ("executions",), _devices)
