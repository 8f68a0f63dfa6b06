"""Attack 2: an older timestamp, honestly signed and unexpired, is served in place of the newest.

What the attacker wants: the state before the release managers forbade a release by a signed floor, so that the
director, whose key was stolen with the server, may send devices back to it.
"""

from bundles.trust.drafting.offline import raise_signed_floors

MODEL = "vision/digits"


def serve_the_old_timestamp(lab, device):
    old = lab.honest("timestamp.json")
    lab.repository.publish(
        raise_signed_floors(lab.repository.targets, {MODEL: 5}, lab.some("targets1", "targets2"), lab.now())
    )
    device.refresh()
    lab.served["timestamp.json"] = old
    device.refresh()
    lab.assign(lab.wanted("1.0.0"), trust_version=99)
    device.poll()


def runs_the_forbidden_release(lab, device):
    return device.running() == "1.0.0"


def test_attack_02_timestamp_rollback(attack):
    _, device = attack(serve_the_old_timestamp, "TRUST_ROLLBACK_TIMESTAMP", is_instructed=True)
    assert device.snapshot().floors.signed == {MODEL: 5}


def test_attack_02_has_teeth(with_teeth, forget_what_was_cached):
    """Versions are kept twice, by TUF's client in its cache and by our floors outside it: both are taken away."""
    with_teeth(
        serve_the_old_timestamp,
        runs_the_forbidden_release,
        {
            "bundles.trust.device.cache.MetadataCache._rebuild_scratch": forget_what_was_cached,
            "bundles.trust.device.checks.check_versions": lambda roles, floors: None,
        },
    )
