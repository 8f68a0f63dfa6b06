"""What one rollout is asked to do: immutable once created, and what approvals are bound to.

Leaves which device falls in which wave to ``plan`` and how far it got to ``rollout``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bundles.digest import canonical_json, is_sha256, sha256_hex
from bundles.wire.messages import Profile
from control_plane.core.cohorts import Selector
from control_plane.core.policy import Policy, check_policy, read_strictly
from control_plane.errors import PlanRefused, PolicyRefused

SPEC_VERSION = 1
CLEAN_DEVICES_WANTED = 16
"""Default ``min_resolved``: what the install gate needs at its default bounds, or the whole wave if smaller."""


@dataclass(frozen=True)
class WaveSpec:
    """One ordered step as its author asked for it; exactly one of ``percent``, ``count`` and ``rest`` is given.

    Attributes:
        percent: share of the rollout's devices in this wave. Shares add up to 100; a wave ends at the ceiling of the
            cumulative count.
        count: number of devices. Counts add up to the fleet, unless the last wave is ``rest``.
        rest: everything not yet in a wave; the last wave only.
        soak_s: how long the resolved wave is watched, seconds.
        min_resolved: devices that must be resolved before promotion; None = the wave's size, at most 16.
    """

    soak_s: float
    percent: float | None = None
    count: int | None = None
    rest: bool = False
    min_resolved: int | None = None


@dataclass(frozen=True)
class RolloutSpec:
    """A rollout as created.

    Attributes:
        rollout: id.
        model: ``team/model``.
        bundle_sha256: the bundle to move to.
        version: its version, for people.
        counter: its release counter.
        baseline_sha256: the bundle the fleet runs now and canaries are compared with; empty on a first release.
        selector: which devices.
        seed: of the order within strata.
        waves: at least one.
        policy: gates and deadlines.
        profile: timing signed into desired.
        creator: who may therefore not approve it.
        strata: what makes a stratum: ``hardware``, ``label:<name>``; joined by ``/`` where several.
        spec_version: of this form.
    """

    rollout: str
    model: str
    bundle_sha256: str
    version: str
    counter: int
    baseline_sha256: str
    selector: Selector
    seed: str
    waves: tuple[WaveSpec, ...]
    policy: Policy
    profile: Profile = field(default_factory=Profile)
    creator: str = ""
    strata: tuple[str, ...] = ("hardware",)
    spec_version: int = SPEC_VERSION


def parse_waves(document: object) -> tuple[WaveSpec, ...]:
    """Read waves from plain values: a list of mappings with the fields of ``WaveSpec``.

    Raises:
        PolicyRefused: an unknown field or a wrong type.
        PlanRefused: ``PLAN_WAVES``: none given, or a form that cannot add up.
    """
    if not isinstance(document, list | tuple) or not document:
        raise PlanRefused("A rollout needs at least one wave.", code="PLAN_WAVES", remedy="Give waves as a list.")
    waves = tuple(read_strictly(WaveSpec, item) for item in document)
    check_waves(waves)
    return waves


def check_waves(waves: tuple[WaveSpec, ...]) -> None:
    """Refuse waves that cannot add up whatever the fleet.

    Raises:
        PlanRefused: ``PLAN_WAVES``, or ``PLAN_WAVES_SUM`` for percents that do not add up to 100.
    """
    if not waves:
        raise PlanRefused("A rollout needs at least one wave.", code="PLAN_WAVES", remedy="Give waves as a list.")
    for number, wave in enumerate(waves, start=1):
        given = (wave.percent is not None) + (wave.count is not None) + wave.rest
        if given != 1:
            raise PlanRefused(
                f"Wave {number} must give exactly one of percent, count and rest.",
                code="PLAN_WAVES",
                remedy="For example {count: 16} first and {rest: true} last.",
            )
        if wave.rest and number != len(waves):
            raise PlanRefused(f"Wave {number} is 'rest' but not the last.", code="PLAN_WAVES", remedy="Put it last.")
        if (wave.percent is not None and not 0 < wave.percent <= 100) or (wave.count is not None and wave.count < 1):
            raise PlanRefused(
                f"Wave {number} is empty.", code="PLAN_WAVES", remedy="Every wave holds at least one device."
            )
        if wave.min_resolved is not None and wave.min_resolved < 1:
            raise PlanRefused(
                f"Wave {number} would be promoted with nobody resolved.",
                code="PLAN_WAVES",
                remedy="min_resolved is at least 1.",
            )
    percents = [wave.percent for wave in waves if wave.percent is not None]
    if percents and any(wave.count is not None for wave in waves):
        raise PlanRefused(
            "Waves mix percents and counts.", code="PLAN_WAVES", remedy="Use one of them; the last wave may be rest."
        )
    total = sum(percents)
    if percents and (total >= 100 if waves[-1].rest else abs(total - 100) > 1e-9):
        raise PlanRefused(
            f"The waves add up to {total:g} %, not to the whole fleet.",
            code="PLAN_WAVES_SUM",
            remedy="Make the percents add up to 100, or make the last wave rest.",
        )


def check_spec(spec: RolloutSpec) -> None:
    """Refuse a spec that cannot work, whatever the fleet.

    Raises:
        PolicyRefused: the policy, or a soak that races a deadline (``POLICY_SOAK``).
        PlanRefused: the waves, the selector or the digests.
    """
    check_policy(spec.policy, spec.profile)
    check_waves(spec.waves)
    if spec.selector.is_empty:
        raise PlanRefused(
            "The selector selects nothing.",
            code="PLAN_SELECTOR_EMPTY",
            remedy="Name labels or devices, or say all: true for the whole fleet.",
        )
    if not is_sha256(spec.bundle_sha256) or (spec.baseline_sha256 and not is_sha256(spec.baseline_sha256)):
        raise PlanRefused("A bundle is named by its sha256.", code="PLAN_BUNDLE", remedy="Use 64 hex digits.")
    if spec.baseline_sha256 == spec.bundle_sha256:
        raise PlanRefused(
            "The bundle is its own baseline.", code="PLAN_BUNDLE", remedy="Name the bundle the fleet runs now."
        )
    floor = spec.policy.shortest_soak_s(spec.profile)
    for number, wave in enumerate(spec.waves, start=1):
        if wave.soak_s <= floor:
            raise PolicyRefused(
                f"Wave {number} soaks {wave.soak_s:g} s, and must soak longer than {floor:g} s: the longest deadline, "
                "and two canary reports and the watermark.",
                code="POLICY_SOAK",
                remedy="Lengthen the soak or shorten the deadlines or reports.",
                details={"soak_s": wave.soak_s, "floor_s": floor},
            )


def spec_sha256(spec: RolloutSpec) -> str:
    """Return the digest approvals are bound to; any edit voids them."""
    # By way of the stored form: 10 and 10.0 are one duration and must be one digest.
    return sha256_hex(canonical_json(encode_spec(decode_spec(encode_spec(spec)))))


def encode_spec(spec: RolloutSpec) -> dict[str, Any]:
    """Return the spec as plain JSON values."""
    encoded: dict[str, Any] = msgspec.to_builtins(spec)
    return encoded


def decode_spec(document: Mapping[str, Any]) -> RolloutSpec:
    """Return the spec stored as ``document``; fields this code does not know are left alone.

    Raises:
        PolicyRefused: ``POLICY_FIELD``: not a spec of a known version.
    """
    if document.get("spec_version") != SPEC_VERSION:
        raise PolicyRefused(
            f"Spec version {document.get('spec_version')} is not known here.",
            code="POLICY_VERSION",
            remedy="Upgrade the control plane.",
        )
    try:
        return msgspec.convert(document, RolloutSpec)
    except msgspec.ValidationError as error:
        raise PolicyRefused(
            f"The stored spec cannot be read: {error}.", code="POLICY_FIELD", remedy="Create the rollout again."
        ) from error
