"""Attack 19: the device's clock says 1970, or ten years on and then back, or there is none.

Time is what the newest verified timestamp proves, never less: a wrong clock must neither let a frozen world pass for
fresh nor keep the device away from the honest server once it is right again.
"""

from tuf.api.metadata import Metadata, MetaFile, Timestamp

from bundles.trust.roles import utc

DAY_MS = 86_400_000
YEAR_MS = 365 * DAY_MS


def frozen_in_1970(lab, device):
    """The device has seen a state of today; its clock is lost, and an order that ran out yesterday is told."""
    lab.assign(lab.wanted("1.0.0"), issued=lab.now() - 3 * DAY_MS, life_ms=2 * DAY_MS)
    device.clock.wall_shift_ms = -lab.now()
    device.poll()


def impossible_time(lab, device):
    """With the stolen timestamp key: a signing time far ahead, to move the device's proven clock past everything."""
    state = lab.repository.state.snapshot.version
    stamp = Metadata(Timestamp(900, expires=utc(lab.now() + 30 * YEAR_MS), snapshot_meta=MetaFile(state)))
    stamp.sign(lab.keys["timestamp"])
    lab.served["timestamp.json"] = stamp.to_bytes()
    device.refresh()
    lab.served.clear()


def went_back(lab, device):
    return device.running() == "1.0.0"


def is_thrown_into_the_future(lab, device):
    return device.snapshot().floors.clock_ms > lab.now() + YEAR_MS


def test_attack_19_clock_in_1970(attack):
    attack(frozen_in_1970, "TRUST_EXPIRED_DIRECTOR")


def test_attack_19_clock_in_1970_has_teeth(with_teeth):
    """By the device's own clock alone, the order would be fresh."""
    disabled = {"bundles.trust.device.client.TrustStore.clock_ms": lambda store, now_ms: now_ms}
    with_teeth(frozen_in_1970, went_back, disabled)


def test_attack_19_an_impossible_signing_time(attack):
    lab, device = attack(impossible_time, "TRUST_CLOCK")
    assert not is_thrown_into_the_future(lab, device)


def test_attack_19_an_impossible_signing_time_has_teeth(with_teeth):
    """Nothing of it is taken unless that check is away; then the proven clock is thrown decades ahead."""
    disabled = {
        "bundles.trust.device.checks.check_signed_time": lambda *_: None,
        "bundles.trust.device.checks.check_expiry": lambda *_: None,
    }
    with_teeth(impossible_time, is_thrown_into_the_future, disabled)


def test_attack_19_ten_years_ahead_and_back(lab):
    """While the clock is wrong nothing new is taken and the model answers; once it is right, all is as before."""
    device = lab.device()
    before = device.snapshot()
    device.clock.wall_shift_ms = 10 * YEAR_MS
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    device.refresh()
    device.poll()
    assert "TRUST_CLOCK" in device.codes(), "by that clock the server's own certificate has expired"
    assert device.snapshot().all == before.all
    device.clock.wall_shift_ms = 0
    device.later(24 * 3600)
    device.refresh()
    device.poll()
    assert device.running() == "2.0.0", device.codes()


def test_attack_19_without_a_clock_the_device_still_follows(lab):
    """No clock at all: it starts in 1970, every time, and does all that a device with a clock does."""
    device = lab.device()
    device.clock.wall_shift_ms = -lab.now()
    device.restart()
    device.clock.wall_shift_ms = -lab.now()
    device.refresh()
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    device.poll()
    assert device.running() == "2.0.0", device.codes()
