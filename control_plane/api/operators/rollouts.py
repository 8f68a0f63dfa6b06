"""``/api/v1/rollouts``: plan, create, list, show, explain, and every verb that changes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec
from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session

from bundles.digest import canonical_json, sha256_hex
from control_plane.api.deps import Deps, DepsNow
from control_plane.api.json import Cursor, Limit, Name, Word, answer, make_cursor, read_cursor
from control_plane.api.operators.releases import IdempotencyKey
from control_plane.api.preconditions import IfMatch, etag, expected_version
from control_plane.api.problems import responses
from control_plane.api.security import Approver, Operator, Viewer
from control_plane.api.visibility import visible_teams
from control_plane.auth import Principal, Role
from control_plane.core.explain import Story
from control_plane.core.room import Shortage
from control_plane.db.queries.rollouts import (
    ExecutionPage,
    RolloutDetail,
    RolloutPage,
    RolloutView,
    explain_rollout,
    list_executions,
    list_rollouts,
    show_rollout,
    team_of,
)
from control_plane.services import idempotency, rollouts

router = APIRouter(prefix="/rollouts", tags=["rollouts"])
TEXT = r"^[^\x00]*$"
MAX_SECONDS = 366 * 24 * 3600.0


class WaveRequest(BaseModel):
    """One wave: exactly one of percent, count and rest."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    soak_s: float = Field(gt=0, le=MAX_SECONDS)
    percent: float | None = Field(default=None, gt=0, le=100)
    count: int | None = Field(default=None, ge=1, le=10**7)
    rest: bool = False
    min_resolved: int | None = Field(default=None, ge=1, le=10**7)


class SelectorRequest(BaseModel):
    """Which devices: matching labels, or named, never an accidental everything."""

    model_config = ConfigDict(extra="forbid")

    labels: dict[str, str] = {}
    devices: list[str] = Field(default=[], max_length=100_000)
    exclude: list[str] = Field(default=[], max_length=100_000)
    all: bool = False


class CreateRollout(BaseModel):
    """What a rollout is asked to do; see `services.rollouts.RolloutRequest`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    release: str = Field(min_length=1, max_length=200, pattern=TEXT, description="Digest, or team/model@version.")
    selector: SelectorRequest
    waves: list[WaveRequest] = Field(min_length=1, max_length=100)
    policy: dict[str, Any] = Field(default={}, description="Gate policy; every field has a default.")
    profile: dict[str, float] = Field(default={}, description="Timing that differs from the server's, seconds.")
    baseline: str = Field(default="", max_length=64, pattern=r"^([0-9a-f]{64})?$")
    seed: str = Field(default="", max_length=200, pattern=TEXT)
    strata: list[str] = Field(default=["hardware"], max_length=4)

    def request(self) -> rollouts.RolloutRequest:
        """Return it as the service takes it."""
        plain = self.model_dump(exclude_none=True)
        plain["waves"] = [
            {name: value for name, value in wave.items() if value is not False} for wave in plain["waves"]
        ]
        return rollouts.RolloutRequest(**plain)


class Reason(BaseModel):
    """Why, for the audit."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=2000, pattern=TEXT)


@dataclass(frozen=True)
class PlannedWaveView:
    """One wave of a dry run."""

    number: int
    size: int
    devices: list[str]
    strata: dict[str, int]
    soak_s: float
    min_resolved: int
    not_applicable: dict[str, str]
    is_holdout: bool
    proves: str


@dataclass(frozen=True)
class PlanView:
    """A dry run: who, in which wave, why not the others, what gates can prove, how long it takes, who lacks room."""

    model: str
    bundle_sha256: str
    release_version: str
    baseline_sha256: str
    waves: list[PlannedWaveView]
    excluded: dict[str, str]
    notes: list[str]
    shortest_s: float
    longest_s: float
    swap: Literal["hot", "cold"]
    short: list[Shortage]
    room_unknown: list[str]


@dataclass(frozen=True)
class Explanation:
    """Why a rollout stands where it stands: ``text`` for people, ``story`` with the numbers."""

    text: str
    story: Story


class Steer(Protocol):
    """A verb of ``services.rollouts``."""

    def __call__(
        self, session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int
    ) -> RolloutView:
        """Change the rollout."""
        ...


@router.post("/plan", response_model=PlanView, responses=responses(404, 409))
def plan(deps: DepsNow, caller: Viewer, body: CreateRollout) -> Response:
    """Say what a rollout would do, without creating it."""
    with deps.db.read() as session:
        caller.require(Role.VIEWER, rollouts.find_release(session, body.release).team)
        made = rollouts.dry_run(
            session,
            body.request(),
            creator=caller.name,
            profile=deps.settings.profile,
            now_ms=deps.clock.now_ms(),
            random_bytes=deps.random_bytes,
        )
    return answer(_plan_view(made))


@router.post("", status_code=201, response_model=RolloutView, responses=responses(404, 409))
def create(deps: DepsNow, caller: Operator, body: CreateRollout, idempotency_key: IdempotencyKey = "") -> Response:
    """Create a rollout of an approved release. It waits for another person's approval."""
    digest = sha256_hex(canonical_json(body.model_dump(mode="json")))
    now_ms = deps.clock.now_ms()
    with deps.db.write() as session:
        if idempotency_key and (known := idempotency.recall(session, caller.name, idempotency_key, digest)):
            return Response(known[1], known[0], media_type="application/json")
        caller.require(Role.OPERATOR, rollouts.find_release(session, body.release).team)
        view = rollouts.create(
            session,
            body.request(),
            creator=caller.name,
            profile=deps.settings.profile,
            now_ms=now_ms,
            random_bytes=deps.random_bytes,
        )
        if idempotency_key:
            encoded = msgspec.json.encode(view)
            idempotency.keep(session, caller.name, idempotency_key, digest, status=201, body=encoded, now_ms=now_ms)
    return answer(view, status=201, headers={"ETag": etag(view), "Location": f"/api/v1/rollouts/{view.id}"})


@router.get("", response_model=RolloutPage, responses=responses(404))
def list_all(
    deps: DepsNow, caller: Viewer, phase: Word = "", model: Word = "", cursor: Cursor = "", limit: Limit = 50
) -> Response:
    """List rollouts, newest first."""
    after = read_cursor(cursor, tuple[int, str])
    with deps.db.read() as session:
        items, key = list_rollouts(
            session, teams=visible_teams(caller), phase=phase, model=model, after=after, limit=limit
        )
    return answer(RolloutPage(items, make_cursor(key)))


@router.get("/{rollout}", response_model=RolloutDetail, responses=responses(404))
def show(deps: DepsNow, caller: Viewer, rollout: Name) -> Response:
    """Show a rollout with its waves and gates. The ETag is what If-Match takes."""
    with deps.db.read() as session:
        detail = show_rollout(session, rollout)
    caller.require(Role.VIEWER, detail.rollout.team)
    return answer(detail, headers={"ETag": etag(detail.rollout)})


@router.get("/{rollout}/devices", response_model=ExecutionPage, responses=responses(404))
def list_devices(
    deps: DepsNow,
    caller: Viewer,
    rollout: Name,
    wave: Annotated[int, Query(ge=0, le=10_000, description="From 1; 0 = all.")] = 0,
    state: Word = "",
    cursor: Cursor = "",
    limit: Limit = 50,
) -> Response:
    """List a rollout's devices and where each stands."""
    after = read_cursor(cursor, str)
    with deps.db.read() as session:
        _check_team(session, caller, Role.VIEWER, rollout)
        items, key = list_executions(session, rollout, wave=wave, state=state, after=after, limit=limit)
    return answer(ExecutionPage(items, make_cursor(key)))


@router.get("/{rollout}/explain", response_model=Explanation, responses=responses(404))
def explain(deps: DepsNow, caller: Viewer, rollout: Name) -> Response:
    """Say why a rollout stands where it stands, with the numbers."""
    with deps.db.read() as session:
        _check_team(session, caller, Role.VIEWER, rollout)
        story = explain_rollout(session, rollout)
    return answer(Explanation(story.text, story))


def _approve(
    session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int
) -> RolloutView:
    return rollouts.approve(session, rollout, actor=actor, expected=expected, now_ms=now_ms)


def _forward(verb: Steer, text: str) -> Callable[..., Response]:
    def handler(
        deps: DepsNow,
        caller: Approver,
        rollout: Name,
        if_match: IfMatch = "",
        body: Annotated[Reason | None, Body()] = None,
    ) -> Response:
        return _steer(deps, caller, Role.APPROVER, verb, rollout, if_match, body)

    handler.__doc__ = text
    return handler


def _stop(verb: Steer, text: str) -> Callable[..., Response]:
    def handler(
        deps: DepsNow,
        caller: Operator,
        rollout: Name,
        if_match: IfMatch = "",
        body: Annotated[Reason | None, Body()] = None,
    ) -> Response:
        return _steer(deps, caller, Role.OPERATOR, verb, rollout, if_match, body)

    handler.__doc__ = text
    return handler


def _steer(
    deps: Deps, caller: Principal, role: Role, verb: Steer, rollout: str, if_match: str, body: Reason | None
) -> Response:
    expected = expected_version(if_match)
    with deps.db.write() as session:
        _check_team(session, caller, role, rollout)
        view = verb(
            session,
            rollout,
            actor=caller.name,
            reason=body.reason if body else "",
            expected=expected,
            now_ms=deps.clock.now_ms(),
        )
    return answer(view, headers={"ETag": etag(view)})


_VERBS = {
    "approve": _forward(_approve, "Approve the spec as it is; the last approval needed starts the rollout."),
    "reject": _forward(rollouts.reject, "Refuse to approve, for good."),
    "promote": _forward(rollouts.promote, "Promote a wave that the gates could not decide."),
    "pause": _stop(rollouts.pause, "Let it wait; offers nobody took yet are recalled."),
    "resume": _stop(rollouts.resume, "Let a paused rollout go on with the wave it stands in."),
    "rollback": _stop(rollouts.rollback, "Halt it and ask every exposed device back."),
    "abort": _stop(rollouts.abort, "Stop it where it stands: nobody new, nobody back."),
}
for _name, _handler in _VERBS.items():
    router.add_api_route(
        f"/{{rollout}}/{_name}",
        _handler,
        methods=["POST"],
        name=_name,
        response_model=RolloutView,
        responses=responses(404, 409, 412, 428),
    )


def _check_team(session: Session, caller: Principal, role: Role, rollout: str) -> None:
    caller.require(role, team_of(session, rollout))


def _plan_view(made: rollouts.DryRun) -> PlanView:
    spec, plan = made.spec, made.plan
    return PlanView(
        model=spec.model,
        bundle_sha256=spec.bundle_sha256,
        release_version=spec.version,
        baseline_sha256=spec.baseline_sha256,
        waves=[
            PlannedWaveView(
                number=wave.index + 1,
                size=wave.size,
                devices=list(wave.device_ids),
                strata=dict(wave.strata),
                soak_s=wave.soak_s,
                min_resolved=wave.min_resolved,
                not_applicable=dict(wave.not_applicable),
                is_holdout=wave.is_holdout,
                proves=wave.proves,
            )
            for wave in plan.waves
        ],
        excluded=dict(plan.excluded),
        notes=list(plan.notes),
        shortest_s=plan.shortest_s,
        longest_s=plan.longest_s,
        swap=plan.swap,
        short=list(plan.short),
        room_unknown=list(plan.room_unknown),
    )
