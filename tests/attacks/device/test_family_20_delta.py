"""Attack 20: a delta that is made for another base, a bomb, out of range, overlapping, or makes another file."""

import bz2
import io
from pathlib import Path

import pytest

from bundles.build import BuildSpec, VariantSource, build, read_rows
from bundles.contract import parse_contract
from bundles.delta.form import PREFIX, SUB_BZ2, Header, Op, Side
from bundles.delta.make import make_delta
from bundles.digest import canonical_json, sha256_hex


@pytest.fixture
def larger(tmp_path):
    """Give a lab a next release whose model is large enough for a delta, and put its files on the front."""

    def give(lab):
        data = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
        contract = parse_contract(lab.front.blobs[lab.better.file_with_role("contract").sha256])
        spec = BuildSpec(
            team="vision",
            model="digits",
            version="0.0.0",
            release_counter=1,
            channel="prod",
            created_ms=1_792_000_000_000,
            contract=contract,
            variants=[VariantSource("onnx-int8", "onnxruntime", data / "digits-1.2.0.onnx")],
            goldens=data / "digits-goldens-1.2.0.npz",
            rows=read_rows(data / "digits-train.npz", contract),
        )
        bundle = build(spec, tmp_path / "larger.wgb").archive
        lab.front.blobs |= {entry.sha256: bundle.read(entry) for entry in bundle.manifest.files}
        return bundle.manifest

    return give


def contents(lab, device, manifest):
    """Return the model that the device runs, and the one it is to run."""
    store = device.agent.device.parts.store
    running = store.manifest(store.active("vision/digits"))
    old, new = (lab.front.blobs[m.file_with_role("model").sha256] for m in (running, manifest))
    return old, new


def put(lab, old, new, delta):
    path = f"/v1/deltas/{sha256_hex(old)}/{sha256_hex(new)}"
    lab.front.answers[path] = delta
    return path


def by_hand(old, new, ops, residual, base=None):
    base = old if base is None else base
    head = Header(SUB_BZ2, Side(sha256_hex(base), len(base)), Side(sha256_hex(new), len(new)), ops)
    data = canonical_json(head)
    return PREFIX.pack(b"WGD1", len(data)) + data + bz2.compress(residual)


def honest(old, new):
    sink = io.BytesIO()
    assert make_delta(old, new, sink, max_bytes=1 << 30)
    return sink.getvalue()


HOSTILE = {
    "wrong base": ("DELTA_BASE", lambda old, new: by_hand(old, new, [Op(0, len(new), None)], b"", base=new)),
    "bomb": ("DELTA_FORM", lambda old, new: by_hand(old, new, [Op(0, len(new), None)], bytes(1 << 26))),
    "reads out of range": ("DELTA_FORM", lambda old, new: by_hand(old, new, [Op(0, len(new), len(old))], bytes(9))),
    "writes out of range": ("DELTA_FORM", lambda old, new: by_hand(old, new, [Op(0, len(new) + 1, None)], bytes(9))),
    "overlap": (
        "DELTA_FORM",
        lambda old, new: by_hand(old, new, [Op(0, 9, None), Op(8, len(new) - 8, None)], bytes(len(new))),
    ),
    "wrong result": ("DELTA_RESULT", lambda old, new: by_hand(old, new, [Op(0, len(new), None)], bytes(len(new)))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_attack_20_falls_back_to_the_whole_file(lab, larger, name):
    """The honest file is still served: the hostile delta is told, and costs no attempt of the update."""
    code, make = HOSTILE[name]
    manifest = larger(lab)
    device = lab.device()
    old, new = contents(lab, device, manifest)
    path = put(lab, old, new, make(old, new))
    lab.assign(lab.publish("2.0.0", 6, base=manifest))
    device.poll()
    codes = device.codes()
    assert code in codes
    assert device.running() == "2.0.0"
    assert ("GET", path) in lab.front.requests
    state = device.agent.device.updates.states["vision/digits"]
    assert (state.deferrals, state.wrong_content, state.tried) == (0, 0, ()), "nothing is held against the release"
    counts = device.agent.device.steps.traffic.counts()
    assert (counts["deltas"], counts["delta_failures"]) == (0, 1)
    assert counts["bytes"] > len(new)


def test_a_delta_that_is_right_but_too_large_is_not_taken(lab, larger):
    """The demo's models have nothing in common: a delta between them is longer than anybody may offer."""
    manifest = larger(lab)
    device = lab.device()
    old, new = contents(lab, device, manifest)
    put(lab, old, new, honest(old, new))
    lab.assign(lab.publish("2.0.0", 6, base=manifest))
    device.poll()
    assert "DELTA_FORM" in device.codes()
    assert device.running() == "2.0.0"


@pytest.mark.parametrize("name", ["bomb", "wrong result"])
def test_attack_20_with_the_whole_file_withheld(attack, larger, name):
    """Neither delta nor file is honest: what runs stays."""
    code, make = HOSTILE[name]

    def script(lab, device):
        manifest = larger(lab)
        old, new = contents(lab, device, manifest)
        put(lab, old, new, make(old, new))
        lab.front.answers[f"/v1/blobs/sha256/{sha256_hex(new)}"] = bytes(len(new))
        lab.assign(lab.publish("2.0.0", 6, base=manifest))
        device.poll()

    attack(script, code, is_instructed=True)


def wrong_result(lab, device, larger):
    manifest = larger(lab)
    old, new = contents(lab, device, manifest)
    evil = bytearray(new)
    evil[len(new) // 2] ^= 1
    put(lab, old, new, by_hand(old, new, [Op(0, len(new), None)], bytes(evil)))
    lab.assign(lab.publish("2.0.0", 6, base=manifest))
    device.poll()
    for _ in range(3):
        device.later(600)
    return sha256_hex(new)


def test_attack_20_has_teeth(with_teeth, larger, monkeypatch):
    """Without the comparison with what was signed (on arrival, on disk, in the slot), a foreign model would run."""
    signed = []

    def script(lab, device):
        signed.append(wrong_result(lab, device, larger))

    def succeeded(lab, device):
        slots = [slot for slot in (device.folder / "slots").iterdir() if (slot / "model/digits-1.2.0.onnx").exists()]
        digests = {sha256_hex((slot / "model/digits-1.2.0.onnx").read_bytes()) for slot in slots}
        return device.running() == "2.0.0" and bool(digests) and signed[0] not in digests

    with_teeth(
        script,
        succeeded,
        {
            "bundles.delta.apply._refuse_result": lambda sentence, found: None,
            "agent.delta.max_delta_bytes": lambda length: 1 << 30,
            "bundles.delta.apply.max_delta_bytes": lambda length: 1 << 30,
            "agent.store.blobs.Blobs.verify": lambda store, sha256, files: None,
            "agent.store.slots.Slots.check_slot": lambda store, *_: None,
        },
    )
