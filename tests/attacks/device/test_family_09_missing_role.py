"""Attack 9: with the stolen online keys, a snapshot that does not name a role any more.

What the attacker wants: to take a team's role, and what it has withdrawn since, out of the device's sight.
"""


def leave_the_team_out(lab, device):
    versions = {role: signed.version for role, signed in lab.repository.state.roles.items() if role != "team-vision"}
    lab.serve_state({"targets": lab.repository.targets.version, **versions}, snapshot=90, timestamp=900)
    device.refresh()


def took_the_state_without_it(lab, device):
    return device.agent.device.parts.assurance._version == 900


def test_attack_09_role_missing_from_the_snapshot(attack):
    lab, device = attack(leave_the_team_out, "TRUST_MIX")
    assert not took_the_state_without_it(lab, device)


def test_attack_09_has_teeth(with_teeth):
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

    original = TrustedMetadataSet.update_snapshot

    def compare_with_nothing(known, data, trusted=False):
        known._trusted_set.pop("snapshot", None)
        return original(known, data, trusted)

    name = "tuf.ngclient._internal.trusted_metadata_set.TrustedMetadataSet.update_snapshot"
    with_teeth(leave_the_team_out, took_the_state_without_it, {name: compare_with_nothing})
