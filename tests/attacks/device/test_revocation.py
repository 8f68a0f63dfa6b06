"""Revocation is no kill switch: safe modes, what is no longer revoked, and trust that has grown old."""

import json

import numpy as np
import pytest

from agent.client import Client
from agent.errors import SafeMode
from bundles.wire import topics

BOTH = ("revocation1", "revocation2")


@pytest.fixture
def device(lab):
    return lab.device()


def events(device, kind):
    return [m for leaf, m in device.front.reports if leaf == topics.UP_EVENT and m.kind == kind]


def with_safe_mode(lab, device, mode):
    """Run a release that declares ``mode``, and forbid the one before it, so that nothing may stand in."""
    wanted = lab.publish("2.0.0", 6, safe_mode=mode)
    lab.assign(wanted)
    device.poll()
    assert device.running() == "2.0.0"
    lab.revoke(lab.wanted("1.1.0").sha256, *BOTH)
    device.refresh()
    return wanted


def test_a_second_signature_stops_it(lab, device):
    lab.revoke(lab.wanted("1.1.0").sha256, "revocation1")
    device.refresh()
    lab.revoke(lab.wanted("1.1.0").sha256, *BOTH)
    device.refresh()
    assert device.running() == "1.0.0"


def test_keep_with_alarm_goes_on_answering(lab, device):
    wanted = with_safe_mode(lab, device, "keep_with_alarm")
    lab.revoke(wanted.sha256, *BOTH)
    device.refresh()
    assert device.running() == "2.0.0"
    reported = device.reported()
    assert (reported.safe_mode, reported.revoked) == ("keep_with_alarm", "revoked")
    assert [event.data["mode"] for event in events(device, "safe_mode")] == ["keep_with_alarm"]


@pytest.mark.parametrize("mode", ["stop", "constant"])
def test_stop_and_constant_refuse_requests_with_a_code_until_there_is_a_release(lab, device, mode):
    wanted = with_safe_mode(lab, device, mode)
    lab.revoke(wanted.sha256, *BOTH)
    device.refresh()
    for _ in range(2):
        with Client(device.folder / "socket") as client, pytest.raises(SafeMode) as caught:
            client.infer("vision/digits", {"image": np.zeros((1, 8, 8, 1), np.float32)})
        assert mode in caught.value.sentence
        assert (device.reported().safe_mode, device.reported().sha256) == (mode, "")
        device.restart()  # the safe mode outlives a start, and the model never answers in between
    lab.assign(lab.publish("3.0.0", 7))
    device.poll()
    assert device.running() == "3.0.0"
    assert device.reported().safe_mode == ""
    assert [event.data["mode"] for event in events(device, "safe_mode")] == [mode, ""]


def test_what_is_no_longer_revoked_answers_again(lab, device):
    """Recovery from stolen revocation keys (attack 27): targets rotates them, and their list binds no more."""
    from securesystemslib.signer import CryptoSigner

    from bundles.trust.drafting.drafts import Keys
    from bundles.trust.drafting.rotation import rotate_revocation

    wanted = with_safe_mode(lab, device, "stop")
    lab.revoke(wanted.sha256, *BOTH)
    device.refresh()
    assert device.running() == ""
    lab.keys["new1"], lab.keys["new2"] = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    keys = Keys([lab.keys["new1"].public_key, lab.keys["new2"].public_key])
    drafts = rotate_revocation(lab.repository.state, keys, lab.now(), keep=())
    lab.publish_drafts(drafts, "targets1", "targets2", "new1", "new2")
    device.refresh()
    assert device.running() == "2.0.0"
    assert device.reported().safe_mode == ""


def test_what_is_revoked_while_the_device_sleeps_does_not_answer_after_the_first_look(lab, device):
    device.stop()
    lab.revoke(lab.wanted("1.1.0").sha256, *BOTH)
    device.start()
    device.refresh()
    assert device.running() == "1.0.0"
    device.stop()
    lab.front.answers.update(dict.fromkeys(("/metadata/timestamp.json", "/v1/device/desired"), 503))
    device.start()
    assert device.running() == "1.0.0", "what was learned holds without a network"


def test_expiry_is_never_judged_again_for_what_is_installed(lab, device):
    """Years pass without a network: everything signed has expired, and the same model answers, also after a start."""
    lab.front.answers.update(dict.fromkeys(("/metadata/timestamp.json", "/v1/device/desired"), 503))
    device.clock.wall_shift_ms = device.clock.steady_shift_ms = 3 * 365 * 86_400_000
    before = device.snapshot()
    device.later(1)
    device.restart()
    assert device.snapshot().kept == before.kept


def test_the_age_of_trust_warns_at_one_life_and_alarms_at_three(lab, device):
    lab.front.answers["/metadata/timestamp.json"] = 503
    day = 86_400
    levels = []
    for days in (13, 2, 5, 23, 10):  # a timestamp lives 14 days
        device.later(days * day)
        device.agent.schedule.soon(device.agent.device._beat_again)
        device.settle()
        levels.append([m for leaf, m in device.front.reports if leaf == topics.UP_REPORTED][-1].trust_level)
    assert levels == ["fresh", "warn", "warn", "alarm", "alarm"]
    assert [event.code for event in events(device, "trust_age")] == ["TRUST_AGE_WARN", "TRUST_AGE_ALARM"]
    assert device.running() == "1.1.0"
    del lab.front.answers["/metadata/timestamp.json"]
    device.refresh()
    assert [event.code for event in events(device, "trust_age")][2:] == [""], "told that it is current again"


@pytest.mark.parametrize("is_large", [False, True])
def test_the_active_bundle_is_hashed_again_at_the_start(lab, device, is_large, monkeypatch):
    monkeypatch.setattr("agent.runner.steps.HASHED_FIRST_BYTES", 0 if is_large else 1 << 30)
    device.stop()
    slots = (device.folder / "slots").iterdir()
    active = next(s for s in slots if json.loads((s / "bundle.json").read_bytes())["version"] == "1.1.0")
    model = active / lab.base.file_with_role("model").path
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.unlink()
    model.write_bytes(content)
    device.start()
    device.later(60)
    after = {s.name: (s / lab.base.file_with_role("model").path) for s in (device.folder / "slots").iterdir()}
    assert device.running() in ("1.0.0", "1.1.0")
    assert all(path.read_bytes() != bytes(content) for path in after.values()), "what was changed runs nowhere"
