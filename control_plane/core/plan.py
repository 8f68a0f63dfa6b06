"""A dry run: which devices, in which wave, why not the others, what the gates can prove with them, how long it takes.

Pure and repeatable: the same spec and fleet give the same plan. Leaves reading the fleet to the shell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from bundles.digest import order_hash
from control_plane.core.cohorts import is_selected, stratum_of
from control_plane.core.gates import OUTPUT
from control_plane.core.room import NOTHING_SAID, Room, Shortage, is_unknown, room_notes, shortages
from control_plane.core.spec import CLEAN_DEVICES_WANTED, RolloutSpec, WaveSpec, check_spec
from control_plane.core.statistics import Sprt, proven_below
from control_plane.errors import PlanRefused

PLAN_VERSION = 1
NO_INCUMBENT, NO_CONTROLS = "no_incumbent", "no_controls"


@dataclass(frozen=True)
class PlanDevice:
    """One device as the planner sees it.

    Attributes:
        id: device id.
        hardware: its hardware class.
        labels: (name, value) pairs, ``cohort`` among them.
        online: heard from lately.
        current_sha256: the bundle it runs for this model; empty if none.
        variant: the variant of the bundle it would run; empty if none fits.
        busy_with: another open rollout that holds this device for the same model; empty if none.
        room: what the update needs there, and what there is.
    """

    id: str
    hardware: str
    labels: tuple[tuple[str, str], ...] = ()
    online: bool = True
    current_sha256: str = ""
    variant: str = "any"
    busy_with: str = ""
    room: Room = NOTHING_SAID


@dataclass(frozen=True)
class PlannedWave:
    """One wave with its devices, in the order they are offered.

    Attributes:
        index: from 0.
        device_ids: in order.
        strata: (stratum, devices), sorted.
        soak_s: watched for so long.
        min_resolved: devices that must be resolved.
        not_applicable: (gate, reason): gates that cannot judge this wave, known beforehand.
        is_holdout: the lasting controls, released after every other wave.
        proves: what a clean wave proves, in words.
    """

    index: int
    device_ids: tuple[str, ...]
    strata: tuple[tuple[str, int], ...]
    soak_s: float
    min_resolved: int
    not_applicable: tuple[tuple[str, str], ...] = ()
    is_holdout: bool = False
    proves: str = ""

    @property
    def size(self) -> int:
        """Devices in the wave."""
        return len(self.device_ids)


@dataclass(frozen=True)
class Plan:
    """The whole dry run.

    Attributes:
        waves: in order.
        device_strata: (device id, stratum) of every planned device.
        excluded: (device id, reason): ``excluded``, ``no_variant``, ``already_running`` or ``busy:<rollout>``.
        notes: what the reader should know before approving, in sentences.
        shortest_s: if every device is quick and every gate decides at once.
        longest_s: if every stage takes up to its deadline.
        short: what movable devices lack to hold two releases at once; they stay in the plan.
        room_unknown: movable devices that never said what room they have.
        swap: of the bundle.
        version: of this form.
    """

    waves: tuple[PlannedWave, ...]
    device_strata: tuple[tuple[str, str], ...]
    excluded: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    shortest_s: float
    longest_s: float
    short: tuple[Shortage, ...] = ()
    room_unknown: tuple[str, ...] = ()
    swap: Literal["hot", "cold"] = "hot"
    version: int = PLAN_VERSION

    def encode(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        encoded: dict[str, Any] = msgspec.to_builtins(self)
        return encoded

    @staticmethod
    def decode(document: Mapping[str, Any]) -> Plan:
        """Return a stored plan."""
        return msgspec.convert(document, Plan)


def make_plan(spec: RolloutSpec, devices: Iterable[PlanDevice], swap: Literal["hot", "cold"] = "hot") -> Plan:
    """Cut the selected devices into waves.

    Args:
        spec: a whole rollout spec; it is checked first.
        devices: the fleet, or any part of it that holds the selected devices.
        swap: how the bundle is swapped in; ``cold`` needs no memory for two.

    Raises:
        PolicyRefused: the spec's policy does not hold.
        PlanRefused: ``PLAN_SELECTOR_EMPTY`` when nobody is left to move, ``PLAN_WAVES_SUM`` when counts do not add up
            to the fleet, ``PLAN_WAVE_TOO_SMALL`` when wave 1 cannot hold one device of every stratum.
    """
    check_spec(spec)
    movable, excluded = _sift(spec, devices)
    if not movable:
        raise PlanRefused(
            "The selector leaves no device to move.",
            code="PLAN_SELECTOR_EMPTY",
            remedy="Look at the excluded devices and their reasons, or widen the selector.",
            details={"excluded": dict(excluded)},
        )
    strata = {device.id: stratum_of(spec.strata, device.hardware, dict(device.labels)) for device in movable}
    ordered = _interleave(spec.seed, movable, strata)
    holdout = math.floor(len(ordered) * spec.policy.holdout_pct / 100)
    sizes = wave_sizes(spec.waves, len(ordered) - holdout)
    if sizes[0] < len(set(strata.values())):
        raise PlanRefused(
            f"Wave 1 has {sizes[0]} devices for {len(set(strata.values()))} strata.",
            code="PLAN_WAVE_TOO_SMALL",
            remedy="Enlarge wave 1 or use fewer strata: it must hold at least one device of each.",
        )
    waves: list[PlannedWave] = []
    start = 0
    steps = [*zip(spec.waves, sizes, strict=True), *([(spec.waves[-1], holdout)] if holdout else [])]
    for number, (wanted, size) in enumerate(steps):
        if size == 0:
            continue
        ids = tuple(ordered[start : start + size])
        start += size
        waves.append(
            PlannedWave(
                index=len(waves),
                device_ids=ids,
                strata=_count(strata[device] for device in ids),
                soak_s=wanted.soak_s,
                min_resolved=min(size, wanted.min_resolved or CLEAN_DEVICES_WANTED),
                not_applicable=_predict(spec, len(ordered) - start),
                is_holdout=number == len(sizes),
                proves=_proves(size),
            )
        )
    short, unknown = _room(movable, swap)
    return Plan(
        waves=tuple(waves),
        device_strata=tuple((device, strata[device]) for device in ordered),
        excluded=excluded,
        notes=(*_notes(spec, waves), *room_notes(short, unknown, is_swap_cold=swap == "cold")),
        shortest_s=sum(2 * spec.profile.heartbeat_s + spec.profile.probation_s + wave.soak_s for wave in waves),
        longest_s=sum(spec.policy.deadlines.total_s + wave.soak_s for wave in waves),
        short=short,
        room_unknown=unknown,
        swap=swap,
    )


def wave_sizes(waves: Sequence[WaveSpec], devices: int) -> tuple[int, ...]:
    """Return each wave's size; percent waves end at the ceiling of their cumulative count.

    Raises:
        PlanRefused: ``PLAN_WAVES_SUM``: counts without a ``rest`` wave that do not add up to ``devices``.
    """
    sizes: list[int] = []
    percent = 0.0
    for wave in waves:
        placed = sum(sizes)
        if wave.rest:
            end = devices
        elif wave.percent is not None:
            percent += wave.percent
            end = math.ceil(round(devices * percent / 100, 9))
        else:
            end = placed + (wave.count or 0)
        sizes.append(max(0, min(end, devices) - placed))
    asked = sum(wave.count or 0 for wave in waves)
    if all(wave.count is not None for wave in waves) and asked != devices:
        raise PlanRefused(
            f"The waves hold {asked} devices and {devices} are to be moved.",
            code="PLAN_WAVES_SUM",
            remedy="Make the last wave {rest: true}, or use percents.",
            details={"asked": asked, "devices": devices},
        )
    return tuple(sizes)


def _sift(spec: RolloutSpec, devices: Iterable[PlanDevice]) -> tuple[list[PlanDevice], tuple[tuple[str, str], ...]]:
    movable: dict[str, PlanDevice] = {}
    excluded: dict[str, str] = {}
    for device in devices:
        labels = {**dict(device.labels), "hardware": device.hardware}
        if not is_selected(spec.selector, device.id, labels):
            continue
        if device.id in spec.selector.exclude:
            excluded[device.id] = "excluded"
        elif device.busy_with:
            excluded[device.id] = f"busy:{device.busy_with}"
        elif device.current_sha256 == spec.bundle_sha256:
            excluded[device.id] = "already_running"
        elif not device.variant:
            excluded[device.id] = "no_variant"
        else:
            movable[device.id] = device
    return list(movable.values()), tuple(sorted(excluded.items()))


def _room(devices: Iterable[PlanDevice], swap: Literal["hot", "cold"]) -> tuple[tuple[Shortage, ...], tuple[str, ...]]:
    """Return what devices lack, and the ids of those that never said what they have; both by id."""
    short: list[Shortage] = []
    unknown: list[str] = []
    is_cold = swap == "cold"
    for device in sorted(devices, key=lambda one: one.id):
        runs_something = bool(device.current_sha256)
        short += shortages(device.id, device.room, runs_something=runs_something, is_swap_cold=is_cold)
        if is_unknown(device.room, is_swap_cold=is_cold):
            unknown.append(device.id)
    return tuple(short), tuple(unknown)


def _interleave(seed: str, devices: list[PlanDevice], strata: Mapping[str, str]) -> list[str]:
    """Return device ids so that every prefix holds each stratum in proportion, and the first of each comes first."""
    groups: dict[str, list[tuple[bool, str, str]]] = {}
    for device in devices:
        # Online first: a wave of absent devices proves nothing. Within that, the order nobody can choose.
        key = (not device.online, order_hash(seed, device.id), device.id)
        groups.setdefault(strata[device.id], []).append(key)
    placed: list[tuple[bool, float, str, str]] = []
    for group in groups.values():
        for rank, (_, order, device_id) in enumerate(sorted(group)):
            placed.append((rank > 0, (rank + 0.5) / len(group), order, device_id))
    return [device_id for _, _, _, device_id in sorted(placed)]


def _predict(spec: RolloutSpec, left: int) -> tuple[tuple[str, str], ...]:
    gate = spec.policy.output
    if gate is None:
        return ()
    if not spec.baseline_sha256:
        return ((OUTPUT, NO_INCUMBENT),)
    return ((OUTPUT, NO_CONTROLS),) if left < gate.min_devices else ()


def _count(strata: Iterable[str]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for stratum in strata:
        counts[stratum] = counts.get(stratum, 0) + 1
    return tuple(sorted(counts.items()))


def _proves(size: int) -> str:
    return f"Zero failures in {size} proves that fewer than {proven_below(size):.1%} fail (95 % sure)."


def _notes(spec: RolloutSpec, waves: Sequence[PlannedWave]) -> tuple[str, ...]:
    gate, caps, notes = spec.policy.install, spec.policy.caps, []
    clean = Sprt.of(gate.p0, gate.p1, gate.alpha, gate.beta).clean_devices_to_accept
    total = sum(wave.size for wave in waves)
    notes.append(
        f"The install gate takes {gate.p0:.0%} failures for good and {gate.p1:.0%} for bad; "
        f"it needs {clean} devices without failure."
    )
    if total < clean:
        notes.append(f"All {total} devices together cannot satisfy it: a person will be asked to decide.")
    elif waves[0].size < clean:
        notes.append(f"Wave 1 of {waves[0].size} cannot satisfy it alone: it will grow until it can.")
    if any(wave.not_applicable for wave in waves) and caps.error_rate is None and caps.latency_p95_ms is None:
        notes.append("Where outputs cannot be compared no absolute cap takes over: only installs decide there.")
    return tuple(notes)
