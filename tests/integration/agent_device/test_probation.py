"""A model that goes wrong in probation, in a worker process of its own: it ends rolled back, with the reason's code.

Each is a real file in a slot, loaded as on any device, and asked by an application all the while. Only the trial is
left out, which most of them would not pass: what goes wrong here stands for what shows itself later.
"""

import threading
from contextlib import suppress

import numpy as np
import pytest

from agent.client import Client
from agent.core.events import DesiredChanged
from agent.core.state import Asked
from bundles.errors import WavegateError
from bundles.manifest import HealthCheck
from bundles.wire.messages import Profile

UNHURRIED = Profile(
    heartbeat_s=0.2, report_s=3600, canary_report_s=3600, probation_s=20, accept_s=60, download_s=60, activate_s=60
)  # long enough that what is wrong is seen before it ends


@pytest.fixture
def asking():
    """Ask the model from a thread of its own, other inputs each time, with a mean of nothing."""
    stop = threading.Event()
    threads = []

    def begin(rig):
        def ask():
            n = 0
            while not stop.is_set():
                with suppress(WavegateError, OSError), Client(rig.folder / "s", timeout_s=10) as client:
                    while not stop.wait(0.002):
                        n += 1
                        a = n % 251 / 256
                        client.infer("vision/digits", {"x": np.array([[a, -a, a / 2, -a / 2]], dtype=np.float32)})

        threads.append(threading.Thread(target=ask))
        threads[0].start()

    yield begin
    stop.set()
    for thread in threads:
        thread.join(30)


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("crash", {"behaviour": "crash", "after": 1}),  # the first run is the engine's, at the loading
        ("nonfinite", {"behaviour": "nan", "after": 1}),
        ("errors", {"behaviour": "error", "after": 1}),
        ("constant", {"answer": "constant", "value": 0.25}),
        ("latency", {"behaviour": "slow", "delay_ms": 25, "after": 1, "max_latency_ms": 5.0}),
    ],
)
def test_a_release_that_goes_wrong_in_probation_is_taken_back_for_its_reason(make_rig, asking, code, more):
    rig = make_rig()
    rig.is_isolated = True
    rig.start()
    cap = HealthCheck(comparator="allclose", max_latency_ms=more.pop("max_latency_ms", 0.0))
    sound, wrong = rig.release(1), rig.release(2, health=cap, **more)
    rig.install(sound)
    asking(rig)
    rig.gen += 1
    asked = DesiredChanged(0, Asked(rig.gen, wrong, "r", UNHURRIED))
    rig.schedule.soon(lambda: rig.device.updates.offer("vision/digits", asked))
    state = rig.settle("rolled_back", sound.sha256)
    assert (state.reason, state.code) == ("health", code), state.detail
    assert "probation" in [passage.step for passage in state.history]
    assert [tried.sha256 for tried in state.tried] == [wrong.sha256]
    assert rig.answer() == sound.sha256
