from __future__ import annotations

import json

import pytest
from securesystemslib.signer import CryptoSigner

from bundles.trust.drafting.drafts import Keys, encode_drafts, keys_of, next_root, next_targets
from bundles.trust.drafting.renewal import renew
from bundles.trust.drafting.rotation import add_team, remove_team, rotate_director, rotate_root, rotate_team
from bundles.trust.drafting.statements import raise_floors, retire, revoke_bundle
from bundles.trust.roles import Lifetimes
from bundles.trust.signing.base import fetch_base
from bundles.trust.signing.changes import describe_changes

LIFE = Lifetimes()


@pytest.fixture
def ground(holders):
    state, _ = fetch_base(holders.fetch, holders.root)
    return state, holders.now()


def told(state, drafts):
    changes = describe_changes(state, encode_drafts(drafts))
    return "\n".join(changes.lines), "\n".join(changes.warnings)


def key():
    return CryptoSigner.generate_ecdsa().public_key


def test_new_team_with_its_keys_and_threshold(ground):
    state, now = ground
    keys = [key(), CryptoSigner.generate_ed25519().public_key]
    lines, warnings = told(state, add_team(state, "audio", Keys(keys, 2), now))
    assert "Team audio is added: 2 of 2 key(s) must sign" in lines
    assert f"{keys[0].keyid[:12]} (P-256)" in lines
    assert f"{keys[1].keyid[:12]} (ed25519)" in lines
    assert "Targets: version 1 -> 2" in lines
    assert "Team audio begins with version 1" in lines
    assert warnings == ""


def test_team_removed(ground):
    state, now = ground
    lines, _ = told(state, remove_team(state, "vision", now))
    assert "Team vision is removed" in lines


def test_keys_that_come_and_go_and_a_threshold_that_falls(ground):
    state, now = ground
    before, fresh = keys_of(state.root, "root").keys, key()
    lines, warnings = told(state, rotate_root(state, Keys([before[0], fresh], 1), now))
    assert f"Root: the key {fresh.keyid[:12]} (P-256) is added." in lines
    assert f"Root: the key {before[1].keyid[:12]} (ed25519) is removed." in lines
    assert "Root: 1 of 2 must sign (was 2 of 2)." in lines
    assert "Root: fewer people than before can sign alone." in warnings
    assert "After this, one person alone can sign root" in warnings


def test_key_exchanged_in_a_team_and_at_the_server(ground):
    state, now = ground
    lines, _ = told(state, rotate_team(state, "vision", Keys([key()]), now))
    assert lines.count("Team vision: the key") == 3
    lines, warnings = told(state, rotate_director(state, key(), now))
    assert lines.count("The director (online): the key") == 2
    assert warnings == ""
    root_key = keys_of(state.root, "root").keys[0]
    _, warnings = told(state, rotate_director(state, root_key, now))
    assert "The director shares a key with root or targets" in warnings


def test_floors_up_and_down(ground):
    state, now = ground
    drafts = raise_floors(state, {"vision/digits": 7}, now)
    lines, warnings = told(state, drafts)
    assert "vision/digits: no device takes a release counter below 7 any more (was 0)." in lines
    assert warnings == ""
    state.targets = drafts["2.targets.json"].signed
    low = next_targets("targets", state.targets, now, LIFE)
    low.unrecognized_fields["x-floors"] = {"vision/digits": 3}
    changes = describe_changes(state, {"3.targets.json": _bytes(low)})
    assert any("goes down from 7 to 3" in line for line in changes.lines)
    assert any("Lowering the floor of vision/digits" in line for line in changes.warnings)


def test_bundle_listed_then_withdrawn(ground, holders):
    state, now = ground
    signed = holders.sign(holders.manifest("1.0.0", 4))
    changes = describe_changes(state, {signed.name: signed.data})
    assert any(
        line.startswith("vision/digits/1.0.0 is listed: counter 4, channel prod, digest ") for line in changes.lines
    )
    holders.publish("1.0.0", 4)
    state, _ = fetch_base(holders.fetch, holders.root)
    lines, _ = told(state, retire(state, ["vision/digits/1.0.0/bundle.json"], now))
    assert "vision/digits/1.0.0 is no longer listed" in lines


def test_other_content_under_a_listed_path_is_a_warning(ground, holders):
    holders.publish("1.0.0", 4)
    state, _ = fetch_base(holders.fetch, holders.root)
    fresh = next_targets("team-vision", state.roles["team-vision"], holders.now(), LIFE)
    fresh.targets["vision/digits/1.0.0/bundle.json"].hashes["sha256"] = "ab" * 32
    changes = describe_changes(state, {"3.team-vision.json": _bytes(fresh)})
    assert any("is listed with OTHER CONTENT" in line for line in changes.lines)
    assert any("other content before" in line for line in changes.warnings)


def test_revocation_by_targets_says_how_far_it_reaches_and_taking_it_back_warns(ground):
    state, now = ground
    drafts = revoke_bundle(state, "ab" * 32, "miscalibrated", now, by_targets=True)
    lines, _ = told(state, drafts)
    assert "Bundle abababababab is revoked at once, even where it runs or came with the device: miscalibrated." in lines
    state.targets = drafts["2.targets.json"].signed
    fresh = next_targets("targets", state.targets, now, LIFE)
    fresh.unrecognized_fields["x-revoked"] = {}
    changes = describe_changes(state, {"3.targets.json": _bytes(fresh)})
    assert any("no longer on the list" in line for line in changes.lines)
    assert changes.warnings


def test_renewal_says_only_that_the_expiry_moves(ground):
    state, now = ground
    drafts = renew(state, ["root", "targets", "team-vision"], now + 86_400_000)
    lines, warnings = told(state, drafts)
    assert [line.split(":")[0] for line in lines.splitlines()] == ["Root", "Targets", "Team vision"]
    assert all("good until" in line for line in lines.splitlines())
    assert warnings == ""


@pytest.mark.parametrize("role", ["root", "targets", "team-vision"])
def test_field_that_is_not_known_is_shown_and_warned_of(ground, role):
    state, now = ground
    fresh = (
        next_root(state.root, now, LIFE)
        if role == "root"
        else next_targets(role, state.targets if role == "targets" else state.roles[role], now, LIFE)
    )
    fresh.unrecognized_fields["x-new-power"] = {"who": "everybody"}
    changes = describe_changes(state, {f"2.{role}.json": _bytes(fresh)})
    assert any("'x-new-power' becomes {'who': 'everybody'}" in line for line in changes.lines)
    assert any("does not know what 'x-new-power' means" in line for line in changes.warnings)


def test_delegation_on_another_path_than_usual_is_a_warning(ground):
    state, now = ground
    fresh = add_team(state, "audio", Keys([key()]), now)["2.targets.json"].signed
    fresh.delegations.roles["team-audio"].paths = ["*/*/*/*"]
    changes = describe_changes(state, {"2.targets.json": _bytes(fresh)})
    assert any("may list ['*/*/*/*']" in line for line in changes.warnings)


def test_shorter_life_and_server_keys_at_the_top_are_warnings(ground):
    state, now = ground
    fresh = next_root(state.root, now - 100 * 86_400_000, LIFE)
    online = state.root.get_key(state.root.roles["timestamp"].keyids[0])
    fresh.add_key(online, "targets")
    changes = describe_changes(state, {"2.root.json": _bytes(fresh)})
    assert any("would expire earlier than now" in line for line in changes.warnings)
    assert any("A key of the server may also sign root or targets" in line for line in changes.warnings)


def test_first_metadata_is_described_without_a_state(ground, holders):
    files = {name: (holders.metadata / name).read_bytes() for name in ("1.root.json", "1.targets.json")}
    changes = describe_changes(None, files)
    assert any("Root is added: 2 of 2" in line for line in changes.lines)
    assert any("Team vision is added" in line for line in changes.lines)


def _bytes(signed):
    return json.dumps({"signed": signed.to_dict(), "signatures": []}).encode()
