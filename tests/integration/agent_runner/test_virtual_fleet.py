"""Virtual devices against a small control plane: own identities and connections, models run once for all."""

import io
import json

import pytest

from agent.virtual.fleet import Fleet, FleetPlan, Hardware
from agent.virtual.steer import steer
from bundles.build import VariantSource
from bundles.errors import AskPerson
from bundles.wire import codec

MODEL = "vision/digits"
COUNT = 6


@pytest.fixture
def make_fleet(short_path, server, server_ca, publisher, probed):
    fleets = []
    probed(short_path / "fleet" / "shared", "onnxruntime", "tflite")

    def make(count=COUNT, start=True, **changes):
        options = {
            "folder": short_path / "fleet",
            "count": count,
            "prefix": "cam-",
            "url": server.url,
            "server_ca_pem": server_ca.pem,
            "root": publisher.root,
            "token": "good-token",
            "hardware": [Hardware("cam-a", "onnxruntime"), Hardware("cam-b", "tflite")],
            "stream": publisher.stream,
            "rate_hz": 10.0,
            "seed": 7,
        }
        fleet = Fleet(FleetPlan(**{**options, **changes}))
        fleets.append(fleet)
        if start:
            fleet.start()
        return fleet

    yield make
    for fleet in fleets:
        fleet.stop()


def phases(fleet):
    return [entry["models"].get(MODEL, {}).get("phase", "") for entry in fleet.status().values()]


def reported(server, device):
    found = [codec.decode_up(leaf, p) for d, leaf, p in list(server.reports) if d == device and leaf == "up/reported"]
    return max(found, key=lambda r: (r.session, r.beat)) if found else None


def command(fleet, text):
    answers = io.StringIO()
    steer(fleet, io.StringIO(text + "\n"), answers)
    return json.loads(answers.getvalue())


def test_a_fleet_confirms_a_release_and_a_crashing_one_is_rejected_by_each(make_fleet, publisher, server, until):
    good = publisher.publish("1.0.0", 1)
    names = [f"cam-{number:03d}" for number in range(1, COUNT + 1)]
    for name in names:
        publisher.desire(name, good)
    fleet = make_fleet()
    assert list(fleet.devices) == names
    until(lambda: phases(fleet) == ["confirmed"] * COUNT, 90, "all confirmed")
    until(lambda: all(reported(server, name).models[MODEL].phase == "confirmed" for name in names), what="reports")
    assert {reported(server, name).tier for name in names} == {"virtual"}
    assert {reported(server, name).models[MODEL].variant for name in names} == {"onnx-int8", "tflite-int8"}
    blob_requests = [path for _, path, status in server.requests if path.startswith("/v1/blobs/") and status == 200]
    assert len(blob_requests) == len(set(blob_requests)), "each blob is fetched once for the fleet"
    windows = [codec.decode_up(leaf, p).window for _, leaf, p in list(server.reports) if leaf == "up/tel"]
    assert windows
    assert sum(w.labels_ok for w in windows) / sum(w.labels_n for w in windows) > 0.85

    crashing = publisher.publish(
        "1.2.0",
        2,
        variants=[
            VariantSource("onnx-int8", "onnxruntime", publisher.data / "digits-1.2.0.onnx"),
            VariantSource("tflite-int8", "tflite", publisher.data / "digits-1.2.0-crash.tflite"),
        ],
    )
    for name in names:
        publisher.desire(name, crashing)
    until(lambda: set(phases(fleet)) <= {"confirmed", "failed", "rolled_back"} and "failed" in phases(fleet), 90)
    until(lambda: all(reported(server, name).models[MODEL].reason for name in names[1::2]), what="reasons told")
    for name in names[1::2]:
        model = reported(server, name).models[MODEL]
        assert model.version == "1.0.0", "the old model keeps answering"
        assert model.reason == "native_crash"


def test_blur_and_outage_are_steered_and_nothing_is_lost(make_fleet, publisher, server, until):
    good = publisher.publish("1.0.0", 1)
    for number in (1, 2):
        publisher.desire(f"cam-{number:03d}", good)
    fleet = make_fleet(count=2)
    until(lambda: phases(fleet) == ["confirmed"] * 2, 90, "both confirmed")
    assert command(fleet, "blur cam-001") == {"ok": True, "command": "blur", "devices": ["cam-001"]}
    assert command(fleet, "offline cam-002 600")["ok"]
    until(lambda: fleet.status()["cam-002"]["pending"] >= 2, 30, "windows waiting")
    before = len([1 for d, _, _ in server.reports if d == "cam-002"])  # what was under way at the cut has landed
    until(lambda: fleet.status()["cam-002"]["pending"] >= 4, 30, "more windows waiting")
    assert len([1 for d, _, _ in server.reports if d == "cam-002"]) == before
    assert command(fleet, "online cam-002")["ok"]
    until(lambda: fleet.status()["cam-002"]["pending"] <= 1, 60, "the spool emptied")

    def mean_sharpness(device):
        windows = [
            codec.decode_up(leaf, p).window for d, leaf, p in list(server.reports) if (d, leaf) == (device, "up/tel")
        ]
        column = windows[-1].columns["sharpness"]
        return column.sum_q / column.n

    until(lambda: mean_sharpness("cam-001") < mean_sharpness("cam-002") - 100, 30, "the blur in the sketches")
    assert command(fleet, "blur cam-999")["error"]["code"] == "DEVICE_UNKNOWN"
    assert command(fleet, "explode")["error"]["code"] == "STEER_COMMAND"


def test_a_plan_that_cannot_work_is_told_before_anything_is_enrolled(make_fleet, server):
    with pytest.raises(AskPerson) as caught:
        make_fleet(count=1000)
    assert caught.value.code == "FLEET_COUNT"
    with pytest.raises(AskPerson) as caught:
        make_fleet(hardware=[Hardware("cam-z", "abacus")])
    assert caught.value.code == "BACKEND_UNAVAILABLE"
    assert server.requests == []
