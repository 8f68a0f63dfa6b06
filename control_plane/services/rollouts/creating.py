"""A rollout from what an operator asks for: the spec, its dry run, and the stored rollout waiting for approval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
from sqlmodel import Session, select

from bundles.manifest import parse_manifest
from bundles.wire.messages import Profile
from control_plane.core.cohorts import is_selected, parse_selector
from control_plane.core.plan import Plan, PlanDevice, make_plan
from control_plane.core.policy import Policy, parse_policy
from control_plane.core.rollout import Started, new_rollout
from control_plane.core.spec import RolloutSpec, parse_waves
from control_plane.core.states import RolloutPhase
from control_plane.db.queries.planning import plan_devices
from control_plane.db.queries.releases import release_unknown
from control_plane.db.queries.rollouts import RolloutView, view_of
from control_plane.db.tables import Release
from control_plane.errors import Conflict, PolicyRefused
from control_plane.services import audit
from control_plane.services.revocations import check_clear
from control_plane.services.rollouts.devices import insert_rows
from control_plane.services.rollouts.driving import DEFAULT_BUCKET_MS, drive
from control_plane.services.rollouts.effects import Run
from control_plane.services.rollouts.stored import insert

MAX_WAIT_S = 10 * 366 * 24 * 3600
USABLE_STAGES = ("approved", "production")


@dataclass(frozen=True)
class RolloutRequest:
    """What an operator asks for, as plain values; the core's own forms are read strictly from them.

    Attributes:
        release: bundle digest, or ``team/model@version``.
        selector: ``{labels, devices, exclude, all}``.
        waves: list of ``{percent | count | rest, soak_s, min_resolved?}``.
        policy: gate policy; every field has a default.
        profile: fields of the timing profile that differ from the server's.
        baseline: bundle digest canaries are compared with; empty = what most selected devices run.
        seed: of the order within strata; empty = random.
        strata: what makes a stratum: ``hardware``, ``label:<name>``.
    """

    release: str
    selector: Mapping[str, Any]
    waves: Sequence[Mapping[str, Any]]
    policy: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    baseline: str = ""
    seed: str = ""
    strata: Sequence[str] = ("hardware",)


@dataclass(frozen=True)
class DryRun:
    """A spec and the plan it makes with the fleet as it is."""

    spec: RolloutSpec
    plan: Plan


def dry_run(
    session: Session,
    request: RolloutRequest,
    *,
    creator: str,
    profile: Profile,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
) -> DryRun:
    """Return what ``request`` would do; nothing is stored.

    Args:
        session: any.
        request: see ``RolloutRequest``.
        creator: who asks.
        profile: the server's timing profile.
        now_ms: server clock.
        random_bytes: source of randomness for the id and the seed.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
        PolicyRefused: the policy, the profile or a soak.
        PlanRefused: the selector or the waves.
    """
    return _dry_run(session, find_release(session, request.release), request, creator, profile, now_ms, random_bytes)


def create(
    session: Session,
    request: RolloutRequest,
    *,
    creator: str,
    profile: Profile,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
) -> RolloutView:
    """Store a rollout. It waits for approval; where the policy asks for none it begins at once.

    Raises:
        Conflict: ``RELEASE_NOT_APPROVED``, or ``TRUST_REVOKED``.
        NotFound: as ``dry_run``.
        PolicyRefused: as ``dry_run``.
        PlanRefused: as ``dry_run``.
    """
    release = find_release(session, request.release)
    check_clear(session, release.sha256)
    if release.stage not in USABLE_STAGES:
        raise Conflict(
            f"The release {release.team}/{release.model}@{release.version} is {release.stage}, not approved.",
            code="RELEASE_NOT_APPROVED",
            remedy=f"Have another person run `wavegate model approve {release.sha256[:12]}`.",
            details={"stage": release.stage},
        )
    made = _dry_run(session, release, request, creator, profile, now_ms, random_bytes)
    state = new_rollout(made.spec, made.plan, now_ms)
    stored = insert(session, made.spec, made.plan, state, now_ms)
    insert_rows(session, stored.id, release.sha256, made.plan, now_ms)
    body = {
        "release": release.sha256,
        "spec_sha256": stored.row.spec_sha256,
        "devices": len(made.plan.device_strata),
        "waves": [wave.size for wave in made.plan.waves],
    }
    audit.record(session, "audit", creator, "rollout.create", f"rollout:{stored.id}", body, now_ms)
    if state.phase is RolloutPhase.SCHEDULED:
        drive(Run(session, stored, now_ms, DEFAULT_BUCKET_MS), [Started(now_ms, creator)])
    return view_of(stored.row)


def find_release(session: Session, name: str) -> Release:
    """Return the release with the digest ``name`` (or at least 8 digits of it), or called ``team/model@version``.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
        Conflict: ``RELEASE_AMBIGUOUS``.
    """
    key, at, version = name.partition("@")
    if at:
        team, _, model = key.partition("/")
        statement = select(Release).where(Release.team == team, Release.model == model, Release.version == version)
    elif len(name) == 64:
        statement = select(Release).where(Release.sha256 == name)
    elif 8 <= len(name) < 64 and name.isalnum():
        statement = select(Release).where(Release.sha256.startswith(name))
    else:
        raise release_unknown(name)
    found = session.exec(statement.limit(2)).all()
    if not found:
        raise release_unknown(name)
    if len(found) > 1:
        raise Conflict(
            f"Several releases begin with {name!r}.", code="RELEASE_AMBIGUOUS", remedy="Give more digits of the digest."
        )
    return found[0]


def _dry_run(
    session: Session,
    release: Release,
    request: RolloutRequest,
    creator: str,
    server_profile: Profile,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
) -> DryRun:
    manifest = parse_manifest(release.manifest_json.encode())
    profile = parse_profile(request.profile, server_profile)
    policy = parse_policy(request.policy, profile)
    _check_bounds(policy, profile)
    selector = parse_selector(request.selector)
    fleet = plan_devices(session, manifest.model_key, manifest, now_ms)
    selected = [one for one in fleet if is_selected(selector, one.id, {**dict(one.labels), "hardware": one.hardware})]
    spec = RolloutSpec(
        rollout=f"ro-{random_bytes(6).hex()}",
        model=manifest.model_key,
        bundle_sha256=release.sha256,
        version=release.version,
        counter=release.release_counter,
        baseline_sha256=request.baseline or _most_common(selected, release.sha256),
        selector=selector,
        seed=request.seed or random_bytes(8).hex(),
        waves=parse_waves(list(request.waves)),
        policy=policy,
        profile=profile,
        creator=creator,
        strata=tuple(request.strata),
    )
    return DryRun(spec, make_plan(spec, fleet, manifest.swap))


def parse_profile(fields: Mapping[str, Any], default: Profile) -> Profile:
    """Return ``default`` with ``fields`` replaced.

    Raises:
        PolicyRefused: ``PROFILE_FIELD``: an unknown field, or a value that is no positive number of seconds.
    """
    known = {info.name for info in msgspec.structs.fields(Profile)} - {"v"}
    for name, value in fields.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in known or not is_number or not 0 < value < 10**9:
            raise PolicyRefused(
                f"{name}={value!r} is no field of a timing profile, in seconds above 0.",
                code="PROFILE_FIELD",
                remedy=f"Known here: {', '.join(sorted(known))}.",
            )
    return msgspec.structs.replace(default, **{name: float(value) for name, value in fields.items()})


def _check_bounds(policy: Policy, profile: Profile) -> None:
    """Refuse durations no clock can hold: times are stored in 64 bits."""
    waits = {**asdict(policy), **asdict(policy.deadlines), "shortest soak": policy.shortest_soak_s(profile)}
    for name, value in waits.items():
        if isinstance(value, int | float) and value > MAX_WAIT_S:
            raise PolicyRefused(
                f"'{name}' is {value:g}, longer than ten years.", code="POLICY_VALUE", remedy="Give a shorter time."
            )


def _most_common(devices: Sequence[PlanDevice], bundle_sha256: str) -> str:
    counts = Counter(one.current_sha256 for one in devices if one.current_sha256 not in ("", bundle_sha256))
    return min(counts, key=lambda sha256: (-counts[sha256], sha256)) if counts else ""
