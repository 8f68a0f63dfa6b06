"""The story, chapter by chapter, acting through commands, the API and devices; ``claims`` judges the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundles import __version__
from bundles.errors import AskPerson
from bundles.wire.messages import DesiredModel
from control_plane.client import Client
from control_plane.demo import claims
from control_plane.demo.claims import Claim, Facts
from control_plane.demo.fleet import DemoFleet, Door
from control_plane.demo.narrator import Narrator
from control_plane.demo.processes import Processes
from control_plane.demo.releases import MODEL_KEY, PILOT, RELEASES, Release
from control_plane.demo.rollouts import SOAK_S, Rollout
from control_plane.demo.stage import BUCKET_S, PROFILE, People, Stage
from control_plane.demo.thief import Thief

RATE_HZ = 5.0
BLURRED_SITE = "south"
FEATURE = "sharpness"
CUT_DEVICES = 8
ROLLOUT_TIMEOUT_S = 90.0
DRIFT_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 30.0
DEFAULT_SEED = 28
"""With this one and 60 devices the first wave holds a real agent of each kind, the crashing variant's among them."""


@dataclass(frozen=True)
class Options:
    """What a person may choose.

    Attributes:
        folder: everything lies in it.
        devices: in all, four of them real.
        scenario: ``tour`` is all of it; ``good``, ``bad-release`` and ``drift`` stop after their part.
        seed: of the fleet's order and streams.
        port: of the operators' door; 0 = any free one.
        patience: factor on every time limit, for very busy machines.
    """

    folder: Path
    devices: int = 60
    scenario: str = "tour"
    seed: int = DEFAULT_SEED
    port: int = 0
    patience: float = 1.0


@dataclass
class Report:
    """The facts of one run."""

    claims: list[Claim] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def all_hold(self) -> bool:
        """Whether every claim held, and there was one."""
        return bool(self.claims) and all(claim.ok for claim in self.claims)

    def as_dict(self) -> dict[str, Any]:
        """Return the report's JSON."""
        return {
            "claims": [claim.as_dict() for claim in self.claims],
            "timings": {name: round(seconds, 2) for name, seconds in self.timings.items()},
            "devices": self.devices,
            "versions": self.versions,
        }


class Story:
    """One run of the demo.

    Args:
        options: what to play.
        processes: where programs are kept.
        narrator: the screen.
    """

    def __init__(self, options: Options, processes: Processes, narrator: Narrator) -> None:
        self._options, self._narrator, self._processes = options, narrator, processes
        self.stage = Stage(processes, options.folder, options.port)
        self.report = Report()
        self.people = People("", "", "")
        self._digests: dict[str, str] = {}

    def tell(self) -> Report:
        """Play the scenario; return the facts, read back at the end.

        Raises:
            AskPerson: a program failed, or something took too long.
        """
        scenario = self._options.scenario
        with self._timed("setup_s"):
            self._set_stage()
        with Client(self.stage.url, self.people.ada) as ada, Client(self.stage.url, self.people.grace) as grace:
            self._wait_online(ada)
            with self._timed("release_1.0.0_s"):
                self._good_release("1.0.0", ada, grace, "A first release, in waves")
            self._judge(lambda: claims.fleet_is_enrolled(self._twins(ada), self._options.devices))
            self.report.timings["first_healthy_wave_s"] = self._first_wave_s
            if scenario in ("tour", "good"):
                with self._timed("release_1.1.0_s"):
                    self._release_with_outage(ada, grace)
            if scenario in ("tour", "bad-release"):
                with self._timed("release_1.2.0_s"):
                    self._bad_release(ada, grace)
            if scenario == "tour":
                with self._timed("stolen_s"):
                    self._stolen_control_plane(ada)
            if scenario in ("tour", "drift"):
                with self._timed("drift_s"):
                    self._drift(ada)
            self._finish(ada)
        self.report.timings["story_s"] = self._narrator.elapsed_s
        return self.report

    def _set_stage(self) -> None:
        say, stage = self._narrator.say, self.stage
        self._narrator.chapter("Keys, a control plane, a fleet")
        say(f"key ceremony: {stage.hold_ceremony()}")
        building = threading.Thread(
            target=self._build, name="demo-build", daemon=True, args=(lambda r: say(f"built {r.file_name}"),)
        )
        building.start()
        stage.start_server()
        self.people = stage.let_people_in()
        say(f"control plane at {stage.url}, devices at {stage.addresses['devices']}, MQTT {stage.addresses['mqtt']}")
        with Client(stage.url, self.people.admin) as admin:
            token = admin.post("/api/v1/devices/enroll-tokens", {"uses": self._options.devices, "life_s": 3600})
        door = Door(stage.addresses["devices"], Path(stage.addresses["server_ca"]), stage.root, str(token["token"]))
        self.fleet = DemoFleet(self._processes, self._options.folder / "devices", door, stage.stream)
        real = threading.Thread(target=self.fleet.start_real, args=(RATE_HZ,), name="demo-real", daemon=True)
        real.start()
        count = self._options.devices - len(self.fleet.real)
        self.virtual = self.fleet.start_virtual(count, RATE_HZ, self._options.seed)
        real.join()
        building.join()
        if self._build_error is not None:
            raise self._build_error
        say(f"{len(self.fleet.real)} real agents and {len(self.virtual)} virtual devices enrolled")

    _build_error: AskPerson | None = None
    _first_wave_s = 0.0

    def _build(self, built: Callable[[Release], None]) -> None:
        try:
            self.stage.build_all(built)
        except AskPerson as error:
            self._build_error = error

    def _publish(self, version: str) -> None:
        self._digests[version] = self.stage.release(version, self.people)
        self._narrator.say(f"{version} signed with the team's key, published by ada, approved by grace")

    def _good_release(self, version: str, ada: Client, grace: Client, title: str) -> Rollout:
        self._narrator.chapter(f"{title}: digits {version}")
        if version == "1.0.0" and self._options.scenario == "tour":
            self.stage.publish(PILOT, self.people)
        self._publish(version)
        rollout = Rollout(ada, self._narrator)
        rollout.begin(version, self._options.seed, grace)
        rollout.wait(lambda d: d["waves"][0]["phase"] == "promoted", self._limit(ROLLOUT_TIMEOUT_S), "its second wave")
        self._first_wave_s = self._first_wave_s or self._narrator.elapsed_s
        rollout.wait_ended(self._limit(ROLLOUT_TIMEOUT_S))
        self._judge_good(version, ada, rollout)
        return rollout

    def _judge_good(self, version: str, ada: Client, rollout: Rollout) -> None:
        facts = Facts(ada)
        self._judge(lambda: claims.good_release_is_everywhere(version, facts, rollout.id))
        for gate in self.report.claims[-1].evidence["gates"]:
            self._narrator.evidence(f"wave {gate['wave']} {gate['gate']}: {gate['verdict']} - {gate['sentence']}")

    def _release_with_outage(self, ada: Client, grace: Client) -> None:
        self._narrator.chapter("A better release, and a network that fails in the middle: digits 1.1.0")
        self._publish("1.1.0")
        rollout = Rollout(ada, self._narrator)
        rollout.begin("1.1.0", self._options.seed, grace)
        rollout.wait(lambda d: d["waves"][0]["phase"] == "soaking", self._limit(ROLLOUT_TIMEOUT_S), "its first soak")
        later = {row["device"] for row in rollout.devices() if row["wave"] == 2}
        self._cut = [device for device in self.virtual if device in later][:CUT_DEVICES]
        seconds = SOAK_S + PROFILE["accept_s"]
        self.fleet.steer(f"offline {','.join(self._cut)} {seconds}")
        self._narrator.say(f"network cut for {len(self._cut)} devices, for {seconds:.0f} s")
        rollout.wait_ended(self._limit(ROLLOUT_TIMEOUT_S))
        self._wait(lambda: self._versions(ada) == {"1.1.0"}, SETTLE_TIMEOUT_S, "every device runs 1.1.0")
        self._judge_good("1.1.0", ada, rollout)

    _cut: list[str] = []  # noqa: RUF012 - replaced, never changed

    def _bad_release(self, ada: Client, grace: Client) -> None:
        before = max(self._digests, key=lambda v: tuple(map(int, v.split("."))))
        self._narrator.chapter("A bad release, validly signed: digits 1.2.0")
        self._publish("1.2.0")
        rollout = Rollout(ada, self._narrator)
        rollout.begin("1.2.0", self._options.seed, grace)
        rollout.wait_ended(self._limit(ROLLOUT_TIMEOUT_S))
        self._narrator.evidence(rollout.explain()["text"])
        self._wait(lambda: self._versions(ada) == {before}, SETTLE_TIMEOUT_S, f"every device is back on {before}")
        self._judge(lambda: claims.bad_release_was_stopped("1.2.0", before, Facts(ada), rollout.id, self._twins(ada)))

    def _stolen_control_plane(self, ada: Client) -> None:
        self._narrator.chapter("Somebody owns the control plane")
        stage, say = self.stage, self._narrator.say
        before = {twin["device"]["id"]: claims.running(twin) for twin in self._twins(ada)}
        with closing(Thief(stage.data, PROFILE, int(time.time() * 1000))) as thief:
            forged = thief.forge(stage.archive(RELEASES["1.2.0"]), "6.6.6", 666)
            say("a bundle nobody signed is ordered for every device; the server's own director key signs the order")
            self._attack(ada, thief, "forged", forged, "TRUST_NOT_LISTED", before)
            replayed = thief.replay(stage.archive(RELEASES[PILOT]))
            say(f"the pilot {PILOT}, signed long ago and listed to this day, is ordered for every device")
            self._attack(ada, thief, "replayed", replayed, "TRUST_FLOOR", before)

    def _attack(
        self, ada: Client, thief: Thief, name: str, bundle: DesiredModel, code: str, before: dict[str, str]
    ) -> None:
        asked, facts = thief.order(sorted(before), bundle), Facts(ada)

        silent = set(before)

        def heard() -> bool:
            silent.difference_update([device for device in silent if facts.refusals(device, bundle.sha256)])
            return not silent

        self._wait(heard, SETTLE_TIMEOUT_S, f"every device refuses with {code}")
        self._judge(lambda: claims.every_device_refused(name, bundle.sha256, code, before, facts))
        self._narrator.evidence(f"{code} from {self.report.claims[-1].evidence['refused']} devices")
        thief.put_back(asked)

    def _drift(self, ada: Client) -> None:
        self._narrator.chapter("Some cameras blur")
        version = next(iter(self._versions(ada)))
        twins = self._twins(ada)
        virtual = [
            twin["device"]["id"]
            for twin in twins
            if twin["device"]["cohort"] == BLURRED_SITE and twin["device"]["tier"] == "virtual"
        ]
        blurred = self.fleet.blur(BLURRED_SITE, virtual)
        self._narrator.say(f"a blurred lens before {len(blurred)} cameras at {BLURRED_SITE}")
        facts = Facts(ada)

        def named() -> bool:
            return claims.drift_was_named(facts, BLURRED_SITE, version, FEATURE).ok

        self._wait(named, DRIFT_TIMEOUT_S, "the alert")
        self._judge(lambda: claims.drift_was_named(facts, BLURRED_SITE, version, FEATURE))
        for alert in self.report.claims[-1].evidence["alerts"]:
            self._narrator.evidence(f"{alert['labels'].get('cohort')}: {alert['summary']}")

    def _finish(self, ada: Client) -> None:
        self._narrator.chapter("What happened")
        facts = Facts(ada)
        if self._cut:

            def whole() -> Claim:
                return claims.network_cut_lost_nothing(self._cut, self._twins(ada), self.fleet.statuses())

            self._wait(lambda: whole().ok, SETTLE_TIMEOUT_S, "the last reports")
            self._judge(whole)
        self._judge(lambda: claims.audit_is_whole(facts))
        twins, statuses = self._twins(ada), self.fleet.statuses()
        self.report.devices = [device_facts(twin, statuses.get(twin["device"]["id"], {})) for twin in twins]
        self.report.versions = {"wavegate": __version__, "bundles": self._digests}

    def _judge(self, claim: Callable[[], Claim]) -> None:
        judged = claim()
        self.report.claims.append(judged)
        self._narrator.verdict(judged.claim, is_ok=judged.ok)

    def _twins(self, client: Client) -> list[dict[str, Any]]:
        return Facts(client).devices()

    def _versions(self, client: Client) -> set[str]:
        rows = client.pages("/api/v1/devices", most=10_000)
        return {row["models"].get(MODEL_KEY, {}).get("version", "") for row in rows}

    def _wait_online(self, client: Client) -> None:
        def online() -> bool:
            rows = client.pages("/api/v1/devices", most=10_000)
            return len(rows) == self._options.devices and all(row["online"] for row in rows)

        self._wait(online, 30.0, "every device online")

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Poll until ``condition`` holds; giving up is not an error here: the claim that follows says so."""
        deadline = time.monotonic() + self._limit(timeout_s)
        while not condition():
            if time.monotonic() > deadline:
                self._narrator.say(f"gave up waiting for: {what}")
                return
            time.sleep(BUCKET_S / 8)

    def _limit(self, seconds: float) -> float:
        return seconds * self._options.patience

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = self._narrator.elapsed_s
        yield
        self.report.timings[name] = self._narrator.elapsed_s - began


def device_facts(twin: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return what the report says of one device: from its twin, and accuracy from the device itself."""
    model = twin["reported"].get("models", {}).get(MODEL_KEY, {})
    labelled = {
        digest: {"n": count["n"], "accuracy": round(count["right"] / count["n"], 4)}
        for digest, count in status.get("labelled", {}).items()
        if count["n"]
    }
    return {
        "device": twin["device"]["id"],
        "tier": twin["device"]["tier"],
        "hardware": twin["device"]["hardware"],
        "cohort": twin["device"]["cohort"],
        "version": model.get("version", ""),
        "runtime": model.get("runtime", ""),
        "accelerator": model.get("accelerator", ""),
        "variant": model.get("variant", ""),
        "accuracy": labelled.get(model.get("sha256", ""), {}).get("accuracy"),
        "accuracy_by_bundle": labelled,
    }
