"""Holders in different places: who is asked, who has signed, and what nobody signs."""

from __future__ import annotations

import pytest

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.device.client import TrustStore
from bundles.trust.drafting import founding, rotation, statements
from bundles.trust.drafting.drafts import Keys, encode_drafts
from bundles.trust.fetch import folder_fetch
from bundles.trust.profiles import PROFILES, profile_name
from bundles.trust.publishing.reading import read_state
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.publishing.state import expired_roles
from bundles.trust.signing.signatures import add_signatures, who_signs

ROOTS, TARGETS = ("root-1", "root-2"), ("targets-1", "targets-2")


def refused(kind, code, action, *arguments, **options):
    with pytest.raises(kind) as caught:
        action(*arguments, **options)
    assert (caught.value.code, bool(caught.value.remedy)) == (code, True)


def missing(state, files):
    return {
        (signing.name, quorum.title): quorum.missing
        for signing in who_signs(state, files)
        for quorum in signing.quorums
    }


def test_two_holders_sign_one_after_the_other(estate):
    state = estate.state()
    files = encode_drafts(statements.raise_floors(state, {"vision/m": 1}, estate.clock()))
    assert missing(state, files) == {("2.targets.json", "targets"): 2}
    one = add_signatures(state, files, estate.some("targets-1"))
    assert add_signatures(state, one, estate.some("targets-1")).keys() == one.keys()
    assert missing(state, one) == {("2.targets.json", "targets"): 1}
    refused(TrustRefused, "TRUST_THRESHOLD", estate.repository.publish, one)
    both = add_signatures(state, one, estate.some("targets-2"))
    assert [signing.is_complete for signing in who_signs(state, both)] == [True]
    estate.repository.publish(both)
    estate.accepted(estate.first)


def test_new_root_is_asked_of_the_holders_before_and_after(estate):
    state = estate.state()
    files = encode_drafts(rotation.rotate_root(state, Keys(estate.new("a", "b", "c"), 2), estate.clock()))
    files = add_signatures(state, files, estate.some("root-3", "a"))
    assert missing(state, files) == {("2.root.json", "root before"): 1, ("2.root.json", "root"): 1}


def test_nothing_is_signed_that_is_not_the_next_version(estate):
    drafts = statements.raise_floors(estate.state(), {"vision/m": 1}, estate.clock())
    estate.publish(drafts, *TARGETS)
    refused(AskPerson, "TRUST_CONFLICT", estate.signed, drafts, *TARGETS)
    ahead = statements.raise_floors(estate.state(), {"vision/m": 1}, estate.clock())
    ahead["3.targets.json"].signed.version = 4
    files = {"4.targets.json": ahead["3.targets.json"].to_bytes()}
    refused(AskPerson, "TRUST_CONFLICT", add_signatures, estate.state(), files, estate.some(*TARGETS))
    renamed = {"3.targets.json": files["4.targets.json"]}
    refused(TrustRefused, "TRUST_MIX", add_signatures, estate.state(), renamed, estate.some(*TARGETS))


def test_key_that_nobody_asks_for_is_named(estate):
    drafts = statements.raise_floors(estate.state(), {}, estate.clock())
    refused(AskPerson, "KEY_NOT_OF_ROLE", estate.signed, drafts, "targets-1", "root-1")


def test_event_that_lacks_its_delegation_is_not_signed(estate):
    drafts = rotation.add_team(estate.state(), "radar", Keys(estate.new("radar")), estate.clock())
    del drafts["2.targets.json"]
    refused(AskPerson, "TRUST_CEREMONY", estate.signed, drafts, "radar")


def test_repository_is_founded_by_people_who_never_met(estate, tmp_path):
    """Only public keys come together; every holder signs at home."""
    names = ("r1", "r2", "r3", "t1", "t2", "v1", "v2", "x", "director-x", "snapshot-x", "timestamp-x")
    public = dict(zip(names, estate.new(*names), strict=True))
    drafts = founding.first_metadata(
        root=Keys([public["r1"], public["r2"], public["r3"]], 2),
        targets=Keys([public["t1"], public["t2"]], 2),
        teams={"vision": Keys([public["x"]])},
        snapshot=public["snapshot-x"],
        timestamp=public["timestamp-x"],
        director=public["director-x"],
        revocation=Keys([public["v1"], public["v2"]]),
        profile="team",
        now_ms=estate.clock(),
    )
    files, folder = encode_drafts(drafts), tmp_path / "new" / "metadata"
    for name in ("r1", "t1", "v2", "x", "t2"):
        files = add_signatures(None, files, estate.some(name))
    online = estate.some("snapshot-x", "timestamp-x")
    refused(TrustRefused, "TRUST_ROOT_SIG", founding.found_repository, folder, files, *online, estate.clock())
    assert not folder.exists()
    files = add_signatures(None, files, estate.some("r3"))
    founding.found_repository(folder, files, *online, estate.clock())
    OnlineRepository(folder, *online, estate.clock).resign(force=True)
    with TrustStore(tmp_path / "d", files["1.root.json"], device="d", fetch=folder_fetch(folder)) as store:
        assert store.refresh(estate.clock()).timestamp_version == 2
    refused(AskPerson, "TRUST_CEREMONY", founding.found_repository, folder, files, *online, estate.clock())


def test_people_read_what_has_expired_and_nothing_that_is_not_signed(estate):
    estate.clock.pass_days(400)
    assert set(expired_roles(estate.state(), estate.clock())) == {"root", "targets", "snapshot", "timestamp"}
    path = estate.metadata / "1.targets.json"
    path.write_bytes(path.read_bytes().replace(b'"x-floors":{}', b'"x-floors":{"a/b":1}'))
    refused(TrustRefused, "TRUST_UNSIGNED_TARGETS", estate.state)
    path.unlink()
    refused(TrustRefused, "TRUST_MIX", estate.state)


def test_reading_trusts_no_other_root(estate, found):
    other = found()
    refused(TrustRefused, "TRUST_UNSIGNED_TIMESTAMP", read_state, estate.fetch, other.root)
    before = (estate.metadata / "1.root.json").read_bytes()
    (estate.metadata / "2.root.json").write_bytes(before)
    refused(TrustRefused, "TRUST_MIX", estate.state)


def test_profile_is_stated_or_told_from_the_thresholds(found):
    for name in PROFILES:
        root = found(name).state().root
        assert profile_name(root) == name
        del root.unrecognized_fields["x-profile"]
        assert profile_name(root) == name
