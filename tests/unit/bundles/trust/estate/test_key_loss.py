"""A key that is lost or stolen: taken out everywhere, the drill that proves it, the sheet of paper it is done with."""

from __future__ import annotations

import pytest
from securesystemslib.signer import CryptoSigner

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.director import sign_desired
from bundles.trust.drafting.lostkeys import revoke_key
from bundles.trust.signing.drill import drill
from bundles.trust.signing.recovery import recovery_sheet
from bundles.trust.signing.signers import load_signer, new_key
from bundles.wire.messages import Desired

ROOTS, TARGETS = ("root-1", "root-2"), ("targets-1", "targets-2")


def refused(kind, code, action, *arguments, **options):
    with pytest.raises(kind) as caught:
        action(*arguments, **options)
    assert (caught.value.code, bool(caught.value.remedy)) == (code, True)


def lose(estate, name, **options):
    return revoke_key(estate.state(), estate.keyid(name), estate.clock(), **options)


def test_stolen_team_key_is_replaced_and_what_it_signed_is_signed_again(estate):
    refused(AskPerson, "TRUST_THRESHOLD", lose, estate, "team-vision")
    [public] = estate.new("vision-2")
    plan = lose(estate, "team-vision", replacement=public)
    assert (plan.roles, plan.resign) == (["team-vision"], ["team-vision"])
    assert any("signed again" in word for word in plan.words)
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.signed, plan.drafts, *TARGETS, "team-vision")
    alone = {"2.targets.json": plan.drafts["2.targets.json"]}
    refused(TrustRefused, "TRUST_UNSIGNED_TEAM", estate.publish, alone, *TARGETS)
    estate.publish(plan.drafts, *TARGETS, "vision-2")
    estate.accepted(estate.first)
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.release, "2.0.0", 2, "team-vision")


def test_lost_root_key_leaves_with_two_holders_left(estate):
    plan = lose(estate, "root-3")
    assert (plan.roles, plan.resign) == (["root"], [])
    estate.publish(plan.drafts, *ROOTS)
    estate.accepted(estate.first)
    refused(AskPerson, "TRUST_CEREMONY", lose, estate, "root-3")
    refused(AskPerson, "TRUST_THRESHOLD", lose, estate, "root-2")


def test_lost_targets_key_needs_another_and_targets_is_signed_again(estate):
    refused(AskPerson, "TRUST_THRESHOLD", lose, estate, "targets-2")
    plan = lose(estate, "targets-2", replacement=estate.new("targets-3")[0])
    assert (plan.roles, plan.resign) == (["targets"], ["targets"])
    estate.publish(plan.drafts, *ROOTS, "targets-1", "targets-3")
    estate.accepted(estate.first)


def test_stolen_director_key_is_replaced_and_the_server_is_told_what_to_do(estate):
    plan = lose(estate, "director", replacement=estate.new("director-2")[0])
    assert (plan.roles, plan.resign, sorted(plan.drafts)) == (["director"], [], ["2.targets.json"])
    assert any("every assignment again" in word for word in plan.words)
    estate.publish(plan.drafts, *TARGETS)
    now = estate.clock()
    for key, accepted in (("director", False), ("director-2", True)):
        document = sign_desired(Desired("old", 1, now, now + 10**9, {}), estate.keys[key])
        device = estate.accepted(estate.first)[0]
        if accepted:
            assert device.accept_desired(document, now).gen == 1
        else:
            refused(TrustRefused, "TRUST_UNSIGNED_DIRECTOR", device.accept_desired, document, now)


def test_stolen_timestamp_key_is_replaced_in_root(estate):
    plan = lose(estate, "timestamp", replacement=estate.new("timestamp-2")[0])
    assert any("hold the new key before" in word for word in plan.words)
    estate.online["timestamp"].append(estate.keys["timestamp-2"])
    estate.reopen()
    estate.publish(plan.drafts, *ROOTS)
    estate.accepted(estate.first)


def test_key_that_holds_everything_leaves_everything_in_one_event(found):
    """In a solo estate the second root key is also a targets key and the revocation key."""
    estate = found("solo")
    first = estate.release("1.0.0", 1)
    estate.accepted(first)
    plan = lose(estate, "root-2", replacement=estate.new("root-3")[0])
    assert plan.roles == ["root", "targets", "revocation"]
    assert plan.resign == ["targets", "revocation"]
    estate.publish(plan.drafts, "root-1", "root-3")
    estate.accepted(first)


def test_beginning_of_a_key_id_is_enough_unless_it_is_too_short(estate):
    keyid = estate.keyid("root-3")
    assert revoke_key(estate.state(), keyid[:12], estate.clock()).roles == ["root"]
    refused(AskPerson, "TRUST_CEREMONY", revoke_key, estate.state(), keyid[:7], estate.clock())
    refused(AskPerson, "TRUST_CEREMONY", revoke_key, estate.state(), "f" * 64, estate.clock())


@pytest.mark.parametrize("days", [0, 500])
def test_drill_proves_that_the_backup_suffices_and_changes_nothing(found, days):
    """Also after everything has expired, which is when it is likely to be needed."""
    estate = found("solo", teams=("vision",))
    estate.accepted(estate.release("1.0.0", 1))
    estate.clock.pass_days(days)
    before = {path.name: path.read_bytes() for path in estate.metadata.iterdir()}
    report = drill(estate.metadata, estate.root, estate.keyid("root-1"), estate.some("root-2"), estate.clock())
    assert (report.lost, report.roles) == (estate.keyid("root-1"), ["root", "targets"])
    assert "Nothing was changed" in report.words[-1]
    assert {path.name: path.read_bytes() for path in estate.metadata.iterdir()} == before


def test_drill_of_a_team_needs_as_many_holders_as_the_threshold(estate):
    lost = estate.keyid("root-1")
    report = drill(estate.metadata, estate.root, lost, estate.some("root-2", "root-3"), estate.clock())
    assert report.roles == ["root"]
    refused(AskPerson, "TRUST_DRILL", drill, estate.metadata, estate.root, lost, estate.some("root-2"), estate.clock())


def test_drill_with_the_wrong_key_fails(found):
    estate = found("solo")
    lost = estate.keyid("root-1")
    for backup in (estate.keys["root-1"], estate.keys["team-vision"], CryptoSigner.generate_ed25519()):
        refused(AskPerson, "TRUST_DRILL", drill, estate.metadata, estate.root, lost, [backup], estate.clock())


def test_recovery_sheet_holds_a_key_that_can_be_typed_in_again(tmp_path):
    signer = new_key(tmp_path / "root-2.pem", passphrase=b"correct horse")
    pem = (tmp_path / "root-2.pem").read_bytes()
    sheet = recovery_sheet(pem, signer.public_key, name="root-2.pem", roles=["root", "targets"], made_ms=0)
    begin, end = "-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----"
    typed = begin + sheet.split(begin)[1].split(end)[0] + end + "\n"
    (tmp_path / "typed.pem").write_text(typed)
    again = load_signer(tmp_path / "typed.pem", lambda _: b"correct horse")
    assert again.public_key.keyid == signer.public_key.keyid
    assert signer.public_key.keyid in sheet.replace(" ", "").replace("\n", "")
    assert max(map(len, sheet.splitlines())) <= 100


def test_plain_key_is_never_printed(tmp_path):
    signer = new_key(tmp_path / "root-2.pem")
    pem = (tmp_path / "root-2.pem").read_bytes()
    refused(AskPerson, "KEY_PASSPHRASE", recovery_sheet, pem, signer.public_key, name="x", roles=["root"], made_ms=0)
