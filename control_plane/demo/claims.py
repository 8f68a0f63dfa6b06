"""What must be true at the end, read back from the API and the devices, never from the story's memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from control_plane.client import Client
from control_plane.demo.releases import MODEL_KEY

MAX_HARMED = 24
NEWEST_EVENTS = 20


@dataclass(frozen=True)
class Claim:
    """One claim and what it rests on."""

    claim: str
    ok: bool
    evidence: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the report holds it."""
        return {"claim": self.claim, "ok": self.ok, "evidence": self.evidence}


class Facts:
    """Reads facts from the API.

    Args:
        client: of anybody who may look.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def devices(self) -> list[dict[str, Any]]:
        """Return every device's twin, whole."""
        ids = [row["id"] for row in self._client.pages("/api/v1/devices", most=10_000)]
        return [self._client.get(f"/api/v1/devices/{device}") for device in ids]

    def refusals(self, device: str, sha256: str) -> set[str]:
        """Return the ``TRUST_*`` codes a device has reported of a bundle."""
        events = self._client.pages(f"/api/v1/devices/{device}/events", most=NEWEST_EVENTS)
        return {event["code"] for event in events if event["sha256"] == sha256 and event["code"].startswith("TRUST_")}

    def rollout(self, rollout: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
        """Return a rollout, its devices and its explanation."""
        return (
            self._client.get(f"/api/v1/rollouts/{rollout}"),
            self._client.pages(f"/api/v1/rollouts/{rollout}/devices", most=10_000),
            self._client.get(f"/api/v1/rollouts/{rollout}/explain"),
        )

    def alerts(self) -> list[dict[str, Any]]:
        """Return every alert."""
        return self._client.pages("/api/v1/alerts", most=1_000)

    def audit(self) -> dict[str, Any]:
        """Return whether the hash chain is whole."""
        chain: dict[str, Any] = self._client.get("/api/v1/audit/verify")
        return chain


def running(twin: dict[str, Any]) -> str:
    """Return the version a device says it runs."""
    return str(twin["reported"].get("models", {}).get(MODEL_KEY, {}).get("version", ""))


def fleet_is_enrolled(twins: list[dict[str, Any]], expected: int) -> Claim:
    """Every device enrolled itself; at least four are real agents on two runtimes."""
    real = [twin for twin in twins if twin["device"]["tier"] == "real"]
    runtimes = sorted({twin["reported"]["models"].get(MODEL_KEY, {}).get("runtime", "").split(" ")[0] for twin in real})
    return Claim(
        "The fleet enrolled; at least 4 devices are real agents, on at least 2 runtimes.",
        len(twins) == expected and len(real) >= 4 and len(runtimes) >= 2,
        {"devices": len(twins), "real": [twin["device"]["id"] for twin in real], "runtimes": runtimes},
    )


def good_release_is_everywhere(version: str, facts: Facts, rollout: str) -> Claim:
    """A good release passed its gates and reached every device."""
    detail, rows, story = facts.rollout(rollout)
    states = Counter(row["state"] for row in rows)
    ok = detail["rollout"]["phase"] == "completed" and states["confirmed"] == len(rows)
    return Claim(
        f"{version} passed its gates in every wave and runs on every device.",
        ok,
        {"rollout": rollout, "phase": detail["rollout"]["phase"], "states": dict(states), "gates": _gates(detail),
         "explain": story["text"]},
    )  # fmt: skip


def bad_release_was_stopped(
    version: str, before: str, facts: Facts, rollout: str, twins: list[dict[str, Any]]
) -> Claim:
    """A bad release was halted by its gates, few saw it, all of them went back, nobody else was asked to move."""
    detail, rows, story = facts.rollout(rollout)
    exposed = int(story["story"]["exposed"])
    later = [row for row in rows if row["wave"] > 1]
    untouched = [row["device"] for row in later if row["generation"] == 0]
    versions = Counter(running(twin) for twin in twins)
    asked = Counter(twin["desired"].get(MODEL_KEY, {}).get("target", "") for twin in twins)
    ok = (
        detail["rollout"]["phase"] == "rolled_back"
        and detail["halt"] is not None
        and 0 < exposed <= MAX_HARMED
        and len(untouched) == len(later)
        and versions == Counter({before: len(twins)})
    )
    return Claim(
        f"{version} was halted in its first wave, at most {MAX_HARMED} devices saw it, every one of them is back on "
        f"{before}, and no other device was ever asked to move.",
        ok,
        {"rollout": rollout, "phase": detail["rollout"]["phase"], "halt": detail["halt"], "exposed": exposed,
         "harmed": story["story"]["harmed"], "never_asked": len(untouched), "later_waves": len(later),
         "running": dict(versions), "asked": dict(asked),
         "reasons": dict(Counter(row["reason"] for row in rows if row["reason"])),
         "gates": _gates(detail), "explain": story["text"]},
    )  # fmt: skip


def every_device_refused(attack: str, sha256: str, code: str, before: dict[str, str], facts: Facts) -> Claim:
    """A bundle ordered by somebody who owns the control plane was refused by every device, and nothing changed there.

    Args:
        attack: ``forged`` or ``replayed``.
        sha256: of the bundle ordered.
        code: the refusal expected of every device.
        before: device -> version it ran when the order was given.
        facts: the API.
    """
    codes = {device: facts.refusals(device, sha256) for device in before}
    twins = {twin["device"]["id"]: twin for twin in facts.devices()}
    moved = sorted(device for device, version in before.items() if running(twins[device]) != version)
    other = {device: found for device, found in codes.items() if found != {code}}
    return Claim(
        f"The {attack} bundle was refused with {code} by every device, and what they ran went on running.",
        bool(before) and not moved and not other,
        {"sha256": sha256, "refused": len(before) - len(other), "devices": len(before), "moved": moved,
         "other_codes": {device: sorted(found) for device, found in other.items()}},
    )  # fmt: skip


def drift_was_named(facts: Facts, cohort: str, version: str, feature: str) -> Claim:
    """The blurred cameras' drift was raised as an alert that names the feature, and nobody else's."""
    firing = [
        alert for alert in facts.alerts() if alert["name"] == "drift" and alert["labels"].get("version") == version
    ]
    named = [a for a in firing if a["labels"].get("cohort") == cohort and a["labels"].get("feature") == feature]
    elsewhere = [a for a in firing if a["labels"].get("cohort") != cohort]
    return Claim(
        f"The blur at {cohort} raised a drift alert that names {feature}; the other site raised none.",
        bool(named) and not elsewhere,
        {"alerts": [{"labels": a["labels"], "summary": a["summary"], "state": a["state"]} for a in firing]},
    )


def network_cut_lost_nothing(cut: list[str], twins: list[dict[str, Any]], statuses: dict[str, dict[str, Any]]) -> Claim:
    """Every report ever sent was stored once, on every device, those whose network was cut included."""
    lost, dropped, waiting, stored = [], 0, 0, 0
    for twin in twins:
        device = twin["device"]["id"]
        dropped += int(twin["reported"].get("spool_dropped", 0))
        own = statuses.get(device, {})
        for spool in twin["spools"]:
            stored += spool["stored"]
            if spool["upto_seq"] != spool["max_seq"] or spool["stored"] != spool["upto_seq"]:
                lost.append({"device": device, **spool})
            if spool["boot_epoch"] == own.get("boot_epoch"):
                waiting += max(0, int(own.get("spool_last_seq", 0)) - spool["upto_seq"])
    return Claim(
        f"{len(cut)} devices lost their network in the middle of a rollout; no report was lost or counted twice.",
        not lost and dropped == 0 and len(cut) > 0 and stored > 0,
        {"cut": cut, "reports_stored": stored, "incomplete": lost, "dropped_on_devices": dropped, "under_way": waiting},
    )


def audit_is_whole(facts: Facts) -> Claim:
    """The hash chain of decisions verifies."""
    chain = facts.audit()
    return Claim("The hash-chained record of every decision verifies.", bool(chain["is_whole"]), chain)


def _gates(detail: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"wave": wave["number"], "gate": gate["gate"], "verdict": gate["verdict"], "sentence": gate["sentence"]}
        for wave in detail["waves"]
        for gate in wave["gates"]
    ]
