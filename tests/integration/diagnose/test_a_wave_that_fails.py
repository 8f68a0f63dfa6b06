"""A real release that cannot be loaded, a real rollout, real devices: the first ones that fail are looked into."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from agent.runner.wiring import probe_runtimes
from bundles.contract import Contract, TensorSpec, encode_contract

PROJECT = """
contract = "contract.json"
goldens = "goldens.npz"
[bundle]
team = "vision"
model = "digits"
version = "1.0.0"
release_counter = 1
[[variants]]
id = "onnx"
runtime = "onnxruntime"
file = "m.onnx"
[training]
rows = "rows.npz"
"""
CONTRACT = Contract(
    inputs=[TensorSpec("x", "float32", [1, 2], kind="tabular", features=["a", "b"])],
    outputs=[TensorSpec("p", "float32", [1, 2], min=0, max=1)],
    task="classification",
    labels=["no", "yes"],
)


@pytest.fixture
def broken(house, wavegate, tmp_path, monkeypatch):
    """Build, sign, publish and approve a release whose model is no model; returns the approver's token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAVEGATE_KEY_PASSPHRASE", "correct horse battery")
    draw = np.random.default_rng(3)
    np.savez("goldens.npz", **{"input.x": np.ones((4, 2), np.float32), "output.p": np.full((4, 2), 0.5, np.float32)})
    np.savez("rows.npz", **{"input.x": draw.random((300, 2))})
    np.savez("answers.npz", **{"output.p": draw.dirichlet([1, 1], 300)})
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    (tmp_path / "contract.json").write_bytes(encode_contract(CONTRACT))
    (tmp_path / "bundle.toml").write_text(PROJECT)
    key = str(house.home / "ceremony" / "keys" / "team-vision.pem")
    for line in (
        ["bundle", "build", "bundle.toml", "-o", "x.wgb", "--predictions", "answers.npz"],
        ["bundle", "sign", "x.wgb", "--key", key, "--metadata", str(house.data)],
        ["publish", "x.wgb"],
    ):
        code, _, err = wavegate(*line)
        assert code == 0, err
    code, token, err = wavegate("token", "create", "grace@example.com", "--role", "approver", "-o", "json")
    assert code == 0, err
    return json.loads(token)["token"]


def test_the_first_devices_of_a_failure_are_asked_and_answer_by_themselves(
    house, site, wavegate, broken, tmp_path, monkeypatch, until
):
    probe_runtimes(tmp_path, ("onnxruntime",))
    names = [f"wave-{number}" for number in range(3)]
    for name in names:
        folder = site.enrol(name, runtimes=("onnxruntime",))
        (folder / "probe.json").write_bytes((tmp_path / "probe.json").read_bytes())
        site.run(folder)
    until(lambda: all(_seen(house, name) for name in names), "their first heartbeats")

    def as_grace(*words):
        with monkeypatch.context() as patch:
            patch.setenv("WAVEGATE_TOKEN", broken)
            code, out, err = wavegate(*words)
        assert code == 0, err
        return out

    as_grace("model", "approve", "vision/digits@1.0.0")
    body = {
        "release": "vision/digits@1.0.0",
        "selector": {"devices": names},
        "waves": [{"rest": True, "soak_s": 100_000}],
        "policy": {"holdout_pct": 0, "diagnoses": 2},
    }
    made = house.api.post("/api/v1/rollouts", json=body)
    assert made.is_success, made.text
    rollout = made.json()["id"]
    as_grace("rollout", "approve", rollout)

    def looked_into():
        shown = house.api.get(f"/api/v1/rollouts/{rollout}").json()["diagnoses"]
        return len(shown) == 2 and all(one["bundle_bytes"] for one in shown) and shown

    found = until(looked_into, "the support bundles of two devices")
    assert len({one["device"] for one in found} & set(names)) == 2
    assert {one["failure"] for one in found} == {found[0]["failure"]} != {""}
    code, out, _ = wavegate("rollout", "status", rollout)
    assert (code, found[0]["command"] in out) == (0, True)
    code, out, _ = wavegate("device", "diagnosis", found[0]["device"], found[0]["command"], "--show")
    assert code == 0
    # By then the rollout may have been halted, and the device told to leave it alone.
    assert re.search(rf"vision/digits: (was )?failed.*, reason {found[0]['failure']} \[TRIAL_LOAD\]", out), out


def _seen(house, name: str) -> bool:
    return bool(house.api.get(f"/api/v1/devices/{name}").json()["device"]["last_seen_ms"])
