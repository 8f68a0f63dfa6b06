"""Which devices a rollout means, and which stratum each belongs to.

A *cohort* is a lasting group by label; a *stratum* is the class within which order and statistics are kept, few enough
that each can decide. Leaves waves to ``plan``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from control_plane.errors import PlanRefused


@dataclass(frozen=True)
class Selector:
    """Which devices are meant: those whose labels all match, and those named. Never an accidental everything.

    Attributes:
        labels: (name, value) pairs that must all match; ``hardware`` and ``cohort`` work like labels.
        devices: device ids meant in addition.
        exclude: device ids left out in any case.
        all: the whole fleet, said explicitly.
    """

    labels: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    all: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return not (self.labels or self.devices or self.all)


def parse_selector(document: Mapping[str, object]) -> Selector:
    """Read a selector from plain values: ``{labels: {...}, devices: [...], exclude: [...], all: bool}``.

    Raises:
        PlanRefused: ``PLAN_SELECTOR`` for an unknown field or wrong type, ``PLAN_SELECTOR_EMPTY`` if it names nothing.
    """
    unknown = set(document) - {"labels", "devices", "exclude", "all"}
    labels, everything = document.get("labels", {}), document.get("all", False)
    if unknown or not isinstance(labels, Mapping) or not isinstance(everything, bool):
        raise PlanRefused(
            f"The selector cannot be read{': unknown field ' + sorted(unknown)[0] if unknown else ''}.",
            code="PLAN_SELECTOR",
            remedy="Use labels (name: value), devices and exclude (lists of ids), or all: true.",
        )
    selector = Selector(
        labels=tuple(sorted((str(name), str(value)) for name, value in labels.items())),
        devices=_ids(document.get("devices", ())),
        exclude=_ids(document.get("exclude", ())),
        all=everything,
    )
    if selector.is_empty:
        raise PlanRefused(
            "The selector selects nothing.",
            code="PLAN_SELECTOR_EMPTY",
            remedy="Name labels or devices, or say all: true for the whole fleet.",
        )
    return selector


def is_selected(selector: Selector, device: str, labels: Mapping[str, str]) -> bool:
    """Whether ``selector`` means this device; ``exclude`` is judged by the plan, which gives it as a reason."""
    if selector.all or device in selector.devices:
        return True
    return bool(selector.labels) and all(labels.get(name) == value for name, value in selector.labels)


def stratum_of(keys: tuple[str, ...], hardware: str, labels: Mapping[str, str]) -> str:
    """Return the stratum of a device: its values of ``keys`` joined by ``/``; an absent value is ``-``.

    Args:
        keys: ``hardware`` or ``label:<name>``, in order.
        hardware: the device's hardware class.
        labels: its labels.
    """
    values = []
    for key in keys:
        value = hardware if key == "hardware" else labels.get(key.removeprefix("label:"), "")
        values.append(value or "-")
    return "/".join(values) or "-"


def _ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise PlanRefused("Device ids are a list of strings.", code="PLAN_SELECTOR", remedy="Write ['cam-1', 'cam-2'].")
    return tuple(sorted(set(value)))
