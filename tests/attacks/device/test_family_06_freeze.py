"""Attack 6: the world stands still. What was true once is served for ever, and each role of it expires in its turn.

What the attacker wants: in the frozen world the director, whose key was stolen with the server, sends devices back to
the release before (which is permitted while metadata is fresh). Expiry bounds for how long that works.
"""

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Targets, Timestamp

from bundles.trust.roles import file_name, utc

DAY_MS = 86_400_000


def signed_again(lab, role, kind, signed, holders, days):
    """Publish the role's next version, which lives for ``days``."""
    fresh = kind.from_dict(signed.to_dict())
    fresh.version, fresh.expires = signed.version + 1, utc(lab.now() + days * DAY_MS)
    metadata = Metadata(fresh)
    for holder in lab.some(*holders):
        metadata.sign(holder, append=True)
    lab.repository.publish({file_name(role, fresh.version): metadata.to_bytes()})


def short_root(lab):
    signed_again(lab, "root", Root, lab.repository.state.root, ("root1", "root2"), 2)


def short_targets(lab):
    signed_again(lab, "targets", Targets, lab.repository.targets, ("targets1", "targets2"), 2)


def short_team(lab):
    signed_again(lab, "team-vision", Targets, lab.repository.state.roles["team-vision"], ("vision",), 2)


def long_timestamp(lab):
    """With the stolen timestamp key alone: the snapshot goes on being named after its own 30 days."""
    version = lab.repository.state.snapshot.version
    stamp = Metadata(Timestamp(900, expires=utc(lab.now() + 60 * DAY_MS), snapshot_meta=MetaFile(version)))
    stamp.sign(lab.keys["timestamp"])
    lab.served["timestamp.json"] = stamp.to_bytes()


def frozen(prepare, days):
    def script(lab, device):
        prepare(lab)
        device.refresh()
        lab.served.update({path.name: path.read_bytes() for path in lab.repository_folder.iterdir()} | lab.served)
        device.clock.wall_shift_ms = days * DAY_MS
        device.refresh()
        lab.assign(lab.wanted("1.0.0"), life_ms=4_000 * DAY_MS)
        device.poll()
        device.later(60)

    return script


def expired_assignment(lab, device):
    """An order to go back, kept by the attacker until after its day."""
    lab.assign(lab.wanted("1.0.0"), life_ms=2 * DAY_MS)
    device.clock.wall_shift_ms = 3 * DAY_MS
    device.poll()


def went_back(lab, device):
    return device.running() == "1.0.0"


FREEZES = {
    "TRUST_EXPIRED_TIMESTAMP": frozen(lambda lab: None, 15),
    "TRUST_EXPIRED_SNAPSHOT": frozen(long_timestamp, 31),
    "TRUST_EXPIRED_TARGETS": frozen(short_targets, 3),
    "TRUST_EXPIRED_TEAM": frozen(short_team, 3),
    "TRUST_EXPIRED_ROOT": frozen(short_root, 3),
}


@pytest.mark.parametrize("code", FREEZES)
def test_attack_06_freeze(attack, code):
    attack(FREEZES[code], code, is_instructed=True)


@pytest.mark.parametrize("code", FREEZES)
def test_attack_06_freeze_has_teeth(with_teeth, code):
    with_teeth(FREEZES[code], went_back, {"bundles.trust.device.checks.check_expiry": lambda roles, now: None})


def test_attack_06_expired_assignment(attack):
    attack(expired_assignment, "TRUST_EXPIRED_DIRECTOR")


def test_attack_06_expired_assignment_has_teeth(with_teeth):
    disabled = {"bundles.trust.device.checks.check_assignment_expiry": lambda desired, clock_ms: None}
    with_teeth(expired_assignment, went_back, disabled)


def test_attack_06_what_runs_is_never_judged_again(lab):
    """Inference does not stop because metadata is stale, also over a restart: expiry is judged for new orders only."""
    device = lab.device()
    device.clock.wall_shift_ms = 4_000 * DAY_MS
    device.refresh()
    assert device.running() == "1.1.0"
    device.restart()
    assert device.running() == "1.1.0"
