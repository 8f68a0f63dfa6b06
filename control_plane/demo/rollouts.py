"""Rolling one release out in the demo: the request, the waiting, what is shown of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bundles.errors import AskPerson
from control_plane.client import Client
from control_plane.demo.narrator import Narrator
from control_plane.demo.releases import MODEL_KEY

SOAK_S = 13.0
CANARIES = 18
LATENCY_CAP_MS = 20.0
"""Both good releases answer in well under 5 ms on a busy machine; the slow variant needs 40 and more."""
POLL_S = 0.4
TERMINAL = {"completed", "rolled_back", "rollback_incomplete", "aborted", "rejected", "expired", "superseded"}


def request(version: str, seed: int) -> dict[str, Any]:
    """Return the body that creates the rollout of ``version``."""
    return {
        "release": f"{MODEL_KEY}@{version}",
        "selector": {"all": True},
        "seed": f"demo-{seed}",
        "strata": ["hardware"],
        "waves": [{"count": CANARIES, "soak_s": SOAK_S}, {"rest": True, "soak_s": SOAK_S}],
        "policy": {
            "holdout_pct": 0,
            "looks": 3,
            "caps": {"error_rate": 0.05, "latency_p95_ms": LATENCY_CAP_MS},
            "output": {"min_devices": 5, "min_rows": 200},
            "rollback_s": 60,
        },
    }


class Rollout:
    """One rollout, followed by polling the API.

    Args:
        ada: the client of who creates it.
        narrator: told what changes.
    """

    def __init__(self, ada: Client, narrator: Narrator) -> None:
        self._ada, self._narrator = ada, narrator
        self.id = ""
        self.detail: dict[str, Any] = {}
        self._told: tuple[Any, ...] = ()

    def begin(self, version: str, seed: int, grace: Client) -> None:
        """Create the rollout as Ada, approve it as Grace."""
        body = request(version, seed)
        plan = self._ada.post("/api/v1/rollouts/plan", body)
        sizes = " + ".join(str(wave["size"]) for wave in plan["waves"])
        self._narrator.say(f"plan for {version}: waves of {sizes} devices; {plan['waves'][0]['proves']}")
        created = self._ada.post("/api/v1/rollouts", body)
        self.id = created["id"]
        _, etag = grace.versioned(f"/api/v1/rollouts/{self.id}")
        grace.post(f"/api/v1/rollouts/{self.id}/approve", {}, if_match=etag)
        self._narrator.say(f"rollout {self.id} created by ada, approved by grace")

    def refresh(self) -> dict[str, Any]:
        """Read the rollout again; tell what changed."""
        self.detail = self._ada.get(f"/api/v1/rollouts/{self.id}")
        head = self.detail["rollout"]
        waves = [(wave["phase"], wave["confirmed"], wave["failed"]) for wave in self.detail["waves"]]
        told = (head["phase"], head["pause"], *waves)
        if told != self._told:
            self._told = told
            parts = [
                f"wave {wave['number']} {wave['phase']} {wave['confirmed']}/{wave['devices']} confirmed"
                + (f", {wave['failed']} failed" if wave["failed"] else "")
                for wave in self.detail["waves"]
                if wave["phase"] != "planned"
            ]
            state = head["phase"] + (f" ({head['pause']})" if head["pause"] else "")
            self._narrator.say(f"{state}: {'; '.join(parts) or 'nothing offered yet'}")
        return self.detail

    def wait(
        self,
        until: Callable[[dict[str, Any]], bool],
        timeout_s: float,
        what: str,
        each: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Poll until ``until`` holds of the rollout's detail.

        Raises:
            AskPerson: ``DEMO_TIMEOUT``, with what the rollout says of itself.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            detail = self.refresh()
            if until(detail):
                return detail
            if time.monotonic() > deadline:
                raise AskPerson(
                    f"The rollout did not get to {what} in {timeout_s:.0f} s. {self.explain()['text']}",
                    code="DEMO_TIMEOUT",
                    remedy="A very busy machine may need --patience 2; see also the logs in the demo's folder.",
                )
            if each is not None:
                each()
            time.sleep(POLL_S)

    def wait_ended(self, timeout_s: float) -> dict[str, Any]:
        """Wait until the rollout is over, however it ends."""
        return self.wait(lambda detail: detail["rollout"]["phase"] in TERMINAL, timeout_s, "its end")

    def explain(self) -> dict[str, Any]:
        """Return what ``rollout explain`` says."""
        explained: dict[str, Any] = self._ada.get(f"/api/v1/rollouts/{self.id}/explain")
        return explained

    def devices(self) -> list[dict[str, Any]]:
        """Return every device's row."""
        return self._ada.pages(f"/api/v1/rollouts/{self.id}/devices", most=10_000)
