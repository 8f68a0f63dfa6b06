"""Step 16 of the trust design: after a commit the floor is the counter of the release that was committed before it.

Releases 5, 6 (halted) and 7: some devices went from 3 over 5 to 7, one went from 3 to 7. A roll back out of the last
wave must reach every one of them with no offline key touched, and nobody with all online keys gets any of them lower.
"""

import pytest

MODEL = "vision/digits"


def offline_files(lab):
    """Return every file that an offline key has signed."""
    names = (path.name for path in lab.repository_folder.glob("*.json"))
    return sorted(name for name in names if not name.endswith(("snapshot.json", "timestamp.json")))


def order(lab, device, wanted):
    lab.assign(wanted)
    device.poll()


@pytest.fixture
def fleet(lab):
    """Two devices out of the last wave: one that ran 3, 5, 6 (halted) and 7, one that went from 3 to 7."""
    long, short = lab.device(), lab.first_device()
    assert (long.running(), short.running()) == ("1.1.0", "1.0.0")
    order(lab, long, lab.publish("1.2.0", 6))
    assert long.running() == "1.2.0"
    order(lab, long, lab.wanted("1.1.0"))
    assert long.running() == "1.1.0", "6 is halted, and who had it is back on 5"
    seventh = lab.publish("1.3.0", 7)
    for device in (long, short):
        order(lab, device, seventh)
        assert device.running() == "1.3.0"
    return long, short


def test_roll_back_out_of_the_last_wave_needs_no_offline_key_and_is_the_lowest_there_is(lab, fleet):
    long, short = fleet
    assert [device.snapshot().floors.releases[MODEL] for device in fleet] == [5, 3]
    before, blobs = offline_files(lab), len(lab.front.requests)
    order(lab, long, lab.wanted("1.1.0"))
    order(lab, short, lab.wanted("1.0.0"))
    assert (long.running(), short.running()) == ("1.1.0", "1.0.0")
    assert offline_files(lab) == before
    fetched = [path for _, path in lab.front.requests[blobs:] if path.startswith("/v1/blobs/")]
    assert fetched == [], "both had it on disk"
    for device in fleet:
        device.codes()
    # All online keys are stolen: a state of the attacker's own making, and a director that orders what he likes.
    versions = {role: targets.version for role, targets in lab.repository.state.roles.items()}
    versions["targets"] = lab.repository.state.targets.version
    lab.serve_state(versions, snapshot=90, timestamp=90)
    for device, below in ((long, ("1.0.0", "0.9.0")), (short, ("0.9.0",))):
        for version in below:
            kept = device.snapshot().kept
            lab.assign(lab.wanted(version), trust_version=90)
            device.poll()
            assert "TRUST_FLOOR" in device.codes()
            assert device.snapshot().kept == kept
    lab.serve_state({**versions, "team-vision": versions["team-vision"] - 1}, snapshot=91, timestamp=91)
    for device in fleet:
        kept = device.snapshot().kept
        lab.assign(lab.wanted("0.9.0"), trust_version=91)
        device.poll()
        assert any(code.startswith("TRUST_") for code in device.codes())
        assert device.snapshot().kept == kept


def test_counter_minus_one_would_have_refused_the_roll_back(lab, monkeypatch):
    """The rule has teeth: with a floor made by arithmetic, the device that went from 3 to 7 cannot come back."""
    device = lab.first_device()
    assert device.running() == "1.0.0"
    monkeypatch.setattr("agent.core.moves.min", lambda old, new: new - 1, raising=False)
    order(lab, device, lab.publish("1.3.0", 7))
    assert device.running() == "1.3.0"
    order(lab, device, lab.wanted("1.0.0"))
    assert device.running() == "1.3.0"
    assert "TRUST_FLOOR" in device.codes()
