"""What a repository never publishes, whoever signed it: restrictions taken back, counters used twice, roles lost."""

from __future__ import annotations

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TargetFile

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.drafting import rotation, statements
from bundles.trust.drafting.drafts import Keys, as_drafts, encode_drafts, next_root, next_targets
from bundles.trust.publishing.reading import read_state
from bundles.trust.revocation import REVOCATION, REVOKED_FIELD
from bundles.trust.roles import DIRECTOR, FLOORS_FIELD, KIT, Lifetimes
from bundles.trust.signing.signatures import add_signatures

ROOTS, TARGETS = ("root-1", "root-2"), ("targets-1", "targets-2")
BAD, WORSE = "b" * 64, "c" * 64


def refused(kind, code, action, *arguments, **options):
    with pytest.raises(kind) as caught:
        action(*arguments, **options)
    assert (caught.value.code, bool(caught.value.remedy)) == (code, True)


def changed(estate, change, role="targets"):
    """Draft the next version of a role as no tool of ours would."""
    state = estate.state()
    fresh = next_targets(role, state.targets if role == "targets" else state.roles[role], estate.clock(), Lifetimes())
    change(fresh)
    return as_drafts((role, fresh))


def entry(digest, counter, path):
    custom = {"release_counter": counter, "hardware": [], "channel": "prod", "model": "vision/m"}
    return {path: TargetFile(9, {"sha256": digest}, path, {"custom": custom})}


def assert_unpublishable(estate, code, drafts, *names, kind=TrustRefused):
    before = {path.name: path.read_bytes() for path in estate.metadata.iterdir()}
    refused(kind, code, estate.publish, drafts, *names)
    assert {path.name: path.read_bytes() for path in estate.metadata.iterdir()} == before
    estate.accepted(estate.first)


def test_signed_floor_never_falls_and_is_never_dropped(estate):
    estate.publish(statements.raise_floors(estate.state(), {"vision/m": 5}, estate.clock()), *TARGETS)
    for floors in ({"vision/m": 4}, {}):
        drafts = changed(estate, lambda role, floors=floors: role.unrecognized_fields.update({FLOORS_FIELD: floors}))
        refused(TrustRefused, "TRUST_FLOOR", estate.publish, drafts, *TARGETS)
    estate.publish(statements.raise_floors(estate.state(), {"vision/m": 3, "vision/n": 1}, estate.clock()), *TARGETS)
    for device in estate.accepted():
        assert device.floors.signed == {"vision/m": 5, "vision/n": 1}


def test_floors_raised_by_stolen_targets_keys_fall_with_those_keys(estate):
    estate.publish(statements.raise_floors(estate.state(), {"vision/m": 10**9}, estate.clock()), *TARGETS)
    keys = Keys(estate.new("targets-3", "targets-4"), 2)
    drafts = rotation.rotate_targets(estate.state(), keys, estate.clock())
    drafts["3.targets.json"].signed.unrecognized_fields[FLOORS_FIELD] = {"vision/m": 1}
    estate.publish(drafts, *ROOTS, "targets-3", "targets-4")
    estate.accepted(estate.first)


def test_targets_never_forgets_a_revocation(estate):
    drafts = statements.revoke_bundle(estate.state(), BAD, "stolen", estate.clock(), by_targets=True)
    estate.publish(drafts, *TARGETS)
    drafts = changed(estate, lambda role: role.unrecognized_fields.pop(REVOKED_FIELD))
    assert_unpublishable(estate, "TRUST_ROLLBACK_REVOCATION", drafts, *TARGETS)
    assert set(estate.repository.revoked()) == {BAD}
    assert all(device.standing(BAD, running=True) == "revoked" for device in estate.accepted())


def test_list_of_one_signature_warns_and_of_two_stops(estate):
    estate.publish(statements.revoke_bundle(estate.state(), BAD, "wrong labels", estate.clock()), "revocation-1")
    for device in estate.accepted(estate.first):
        assert device.standing(BAD, running=False) == "revoked"
        assert device.standing(BAD, running=True) == "warned"
    again = statements.revoke_bundle(estate.state(), BAD, "wrong labels", estate.clock())
    estate.publish(again, "revocation-1", "revocation-2")
    for device in estate.accepted(estate.first):
        assert device.standing(BAD, running=True) == "revoked"
        assert device.why_revoked(BAD).reason == "wrong labels"
    assert estate.repository.revoked()[BAD].at_ms == estate.clock()


def test_in_a_solo_estate_the_second_root_key_stops_a_bundle_alone(found):
    estate = found("solo")
    estate.first = estate.release("1.0.0", 1)
    drafts = statements.revoke_bundle(estate.state(), estate.first.sha256, "leaks", estate.clock())
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.signed, drafts, "root-1")
    estate.publish(drafts, "root-2")
    for device in estate.accepted():
        assert device.standing(estate.first.sha256, running=True) == "revoked"
        refused(
            TrustRefused,
            "TRUST_REVOKED",
            device.authorize,
            "vision/m",
            estate.first,
            hardware="any",
            now_ms=estate.clock(),
        )


def test_revocation_list_never_forgets_under_the_same_keys(estate):
    estate.publish(statements.revoke_bundle(estate.state(), BAD, "", estate.clock()), "revocation-1")
    drafts = changed(estate, lambda role: role.unrecognized_fields.update({REVOKED_FIELD: {WORSE: {}}}), REVOCATION)
    assert_unpublishable(estate, "TRUST_ROLLBACK_REVOCATION", drafts, "revocation-1", "revocation-2")


def test_stolen_revocation_key_is_exchanged_and_what_it_forbade_is_allowed_again(estate):
    state = estate.state()
    for digest in (estate.first.sha256, BAD):
        estate.publish(statements.revoke_bundle(estate.state(), digest, "", estate.clock()), "revocation-1")
    assert all(device.standing(estate.first.sha256, running=False) == "revoked" for device in estate.accepted())
    keys = Keys(estate.new("revocation-3", "revocation-4"))
    refused(AskPerson, "TRUST_CEREMONY", rotation.rotate_revocation, state, keys, estate.clock(), keep=[WORSE])
    drafts = rotation.rotate_revocation(estate.state(), keys, estate.clock(), keep=[BAD])
    estate.publish(drafts, *TARGETS, "revocation-3")
    for device in estate.accepted(estate.first):
        assert device.standing(estate.first.sha256, running=False) == "clear"
        assert device.standing(BAD, running=False) == "revoked"
    assert set(estate.repository.revoked()) == {BAD}


def test_revocation_keys_are_not_exchanged_without_a_list_they_signed(estate):
    """Only a look-up finds it: no refresh of TUF's client alone would."""
    drafts = rotation.rotate_revocation(estate.state(), Keys(estate.new("r3", "r4")), estate.clock())
    alone = {"2.targets.json": drafts["2.targets.json"]}
    assert_unpublishable(estate, "TRUST_UNSIGNED_REVOCATION", alone, *TARGETS)
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.signed, drafts, "revocation-1")


def test_keys_that_stay_bind_also_after_one_of_them_left(estate):
    """A floor falls only in the event that exchanges the keys, not in a later one under the same keys."""
    estate.publish(statements.raise_floors(estate.state(), {"vision/m": 1}, estate.clock()), *TARGETS)
    three = Keys([key.public_key for key in estate.some(*TARGETS)] + estate.new("targets-3"), 2)
    root = rotation.rotate_targets(estate.state(), three, estate.clock())
    estate.publish({"2.root.json": root["2.root.json"]}, *ROOTS)  # the old signatures are still enough
    drafts = changed(estate, lambda role: role.unrecognized_fields.update({FLOORS_FIELD: {}}))
    assert_unpublishable(estate, "TRUST_FLOOR", drafts, *TARGETS)


def test_revocation_list_must_be_the_next_version(estate):
    drafts = statements.revoke_bundle(estate.state(), BAD, "", estate.clock())
    signed = estate.signed(drafts, "revocation-1")
    estate.repository.publish(signed)
    other = {
        "2.revocation.json": estate.signed(
            statements.revoke_bundle(estate.state(), WORSE, "", estate.clock()), "revocation-1"
        )["3.revocation.json"]
    }
    refused(TrustRefused, "TRUST_MIX", estate.repository.publish, other)
    assert estate.repository.publish(signed).names == []


def test_repository_without_a_revocation_role_can_be_given_one(holders):
    """As every repository of version 0.1.0 is."""
    holders.publish("1.0.0", 1)
    state = read_state(holders.fetch, holders.root)
    refused(AskPerson, "TRUST_CEREMONY", statements.revoke_bundle, state, BAD, "", holders.now())
    with holders.store() as store:
        store.refresh(holders.now())
        holders.keys["revocation"] = CryptoSigner.generate_ed25519()
        keys = Keys([holders.keys["revocation"].public_key])
        drafts = rotation.rotate_revocation(state, keys, holders.now())
        holders.repository().publish(
            add_signatures(state, encode_drafts(drafts), holders.some("targets", "revocation"))
        )
        state = read_state(holders.fetch, holders.root)
        drafts = statements.revoke_bundle(state, BAD, "", holders.now())
        holders.repository().publish(add_signatures(state, encode_drafts(drafts), holders.some("revocation")))
        store.refresh(holders.now())
        assert store.standing(BAD, running=True) == "revoked"


def test_revocation_role_lists_no_bundle_and_delegates_nothing(estate):
    path = "vision/m/9/bundle.json"
    drafts = changed(estate, lambda role: role.targets.update(entry(BAD, 9, path)), REVOCATION)
    assert_unpublishable(estate, "TRUST_NOT_LISTED", drafts, "revocation-1")
    delegations = estate.state().targets.delegations
    drafts = changed(estate, lambda role: setattr(role, "delegations", delegations), REVOCATION)
    assert_unpublishable(estate, "TRUST_NOT_LISTED", drafts, "revocation-1")


@pytest.mark.parametrize("role", [REVOCATION, DIRECTOR, "team-vision"])
def test_delegated_role_keeps_its_own_path(estate, role):
    def widen(targets):
        targets.delegations.roles[role].paths = ["*/*/*/*"]

    assert_unpublishable(estate, "TRUST_NOT_LISTED", changed(estate, widen), *TARGETS)


@pytest.mark.parametrize(
    ("role", "code"), [(REVOCATION, "TRUST_ROLLBACK_REVOCATION"), (DIRECTOR, "TRUST_UNSIGNED_DIRECTOR")]
)
def test_director_and_revocation_role_are_never_lost(estate, role, code):
    drafts = changed(estate, lambda targets: targets.delegations.roles.pop(role))
    assert_unpublishable(estate, code, drafts, *TARGETS)


def test_revocation_role_with_a_threshold_of_two_is_refused(estate):
    def raise_threshold(targets):
        targets.delegations.roles[REVOCATION].threshold = 2

    assert_unpublishable(estate, "TRUST_THRESHOLD", changed(estate, raise_threshold), *TARGETS)
    refused(
        AskPerson,
        "TRUST_CEREMONY",
        rotation.rotate_revocation,
        estate.state(),
        Keys(estate.new("x", "y"), 2),
        estate.clock(),
    )


def test_withdrawn_listing_is_gone_and_its_counter_stays_used(estate):
    second = estate.release("2.0.0", 2)
    estate.publish(statements.retire(estate.state(), [second.target], estate.clock()), "team-vision")
    assert set(estate.repository.listed()) == {estate.first.target}
    for device in estate.accepted(estate.first):
        refused(
            TrustRefused,
            "TRUST_NOT_LISTED",
            device.authorize,
            "vision/m",
            second,
            hardware="any",
            now_ms=estate.clock(),
        )
    refused(AskPerson, "TRUST_CEREMONY", statements.retire, estate.state(), [second.target], estate.clock())
    for reopened in (False, True):  # what is remembered is also read back from the folder
        if reopened:
            estate.reopen()
        for path, digest, counter in ((second.target, BAD, 3), ("vision/m/3.0.0/bundle.json", BAD, 2)):
            more = entry(digest, counter, path)
            drafts = changed(estate, lambda role, more=more: role.targets.update(more), "team-vision")
            assert_unpublishable(estate, "TRUST_ROLLBACK_TEAM", drafts, "team-vision")
    drafts = changed(estate, lambda role: role.targets.update(entry(second.sha256, 2, second.target)), "team-vision")
    assert estate.publish(drafts, "team-vision").releases == {second.target: second.sha256}


def test_publication_that_broke_off_uses_nothing_up(estate):
    """Nobody was ever told of what lies in the folder beyond the state being served."""
    before = (estate.metadata / "timestamp.json").read_bytes()
    second = estate.release("2.0.0", 2)
    (estate.metadata / "timestamp.json").write_bytes(before)
    assert set(estate.reopen().listed()) == {estate.first.target}
    drafts = changed(estate, lambda role: role.targets.update(entry(BAD, 2, second.target)), "team-vision")
    assert estate.publish(drafts, "team-vision").releases == {second.target: BAD}
    estate.accepted(estate.first)


def test_revoked_bundle_is_not_listed_anew(estate):
    estate.publish(statements.revoke_bundle(estate.state(), BAD, "", estate.clock()), "revocation-1")
    drafts = changed(estate, lambda role: role.targets.update(entry(BAD, 7, "vision/m/7/bundle.json")), "team-vision")
    assert_unpublishable(estate, "TRUST_REVOKED", drafts, "team-vision")


@pytest.mark.parametrize("value", ["text", ["AAAA", "BBBB"], [], 5])
def test_server_cas_that_are_none_are_refused(estate, value):
    drafts = changed(estate, lambda targets: targets.unrecognized_fields.update({"x-server-cas": value}))
    assert_unpublishable(estate, "TRUST_UNSIGNED_TARGETS", drafts, *TARGETS)


def test_root_without_consistent_snapshots_is_refused(estate):
    root = next_root(estate.state().root, estate.clock(), Lifetimes())
    root.consistent_snapshot = False
    assert_unpublishable(estate, "TRUST_MIX", as_drafts(("root", root)), *ROOTS)


def test_kit_delegated_on_another_path_is_refused(estate):
    drafts = rotation.delegate_kit(estate.state(), Keys(estate.new("kit")), estate.clock())
    drafts["2.targets.json"].signed.delegations.roles[KIT].paths = ["vision/*/*/*"]
    assert_unpublishable(estate, "TRUST_NOT_LISTED", drafts, *TARGETS)
