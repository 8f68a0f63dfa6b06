"""What is forbidden, by whom, and what that means on a device: steps 5 and 10, attacks 17 and 27."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Targets

from bundles.errors import TrustRefused, TryAgain
from bundles.trust.durable import write_quickly
from bundles.trust.revocation import (
    MAX_REVOKED,
    RUNNING_THRESHOLD,
    Denied,
    Revoked,
    read_revoked,
    remember,
    standing,
    strength_of,
)

MODEL = "vision/digits"
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def refused(code, action, *arguments, **options):
    with pytest.raises(TrustRefused) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


def revoking(*digests, reason="unsafe"):
    def change(targets):
        entries = {digest: {"reason": reason, "at_ms": 5} for digest in digests}
        before = targets.unrecognized_fields.get("x-revoked", {})
        targets.unrecognized_fields["x-revoked"] = {**before, **entries}

    return change


def forgetting(targets):
    targets.unrecognized_fields["x-revoked"] = {}


@pytest.mark.parametrize(
    ("by_targets", "strength", "factory", "fresh", "running"),
    [
        (False, 0, False, "clear", "clear"),
        (False, 1, False, "revoked", "warned"),
        (False, 2, False, "revoked", "revoked"),
        (False, 3, True, "clear", "clear"),
        (True, 0, False, "revoked", "revoked"),
        (True, 0, True, "revoked", "revoked"),
        (True, 1, False, "revoked", "revoked"),
    ],
)
def test_who_forbids_what_with_how_many_signatures(by_targets, strength, factory, fresh, running):
    rules = {
        "by_targets": {A} if by_targets else set(),
        "by_role": {A: Denied(strength)} if strength else {},
        "factory": {A} if factory else set(),
    }
    assert standing(A, running=False, **rules) == fresh
    assert standing(A, running=True, **rules) == running


DIGESTS = st.sampled_from([A, B, C])


@given(st.lists(st.tuples(st.sets(DIGESTS), st.integers(1, 3)), max_size=6))
def test_nothing_is_forgotten_and_no_strength_is_lost_whatever_lists_follow(lists):
    known = {}
    for listed, strength in lists:
        before = known
        known = remember(known, {digest: Revoked("r", 1) for digest in listed}, strength)
        assert all(known[digest].strength >= entry.strength for digest, entry in before.items())
        assert all(known[digest].strength >= strength for digest in listed)
    expected = {digest: max(s for listed, s in lists if digest in listed) for listed, _ in lists for digest in listed}
    assert {digest: entry.strength for digest, entry in known.items()} == expected


@given(st.integers(0, 5), st.integers(1, 5))
def test_a_single_key_counts_as_enough_only_where_there_is_no_other(signatures, keys):
    strong = strength_of(signatures, keys) >= RUNNING_THRESHOLD
    assert strong == (signatures >= RUNNING_THRESHOLD or (keys == 1 and signatures > 0))


@pytest.mark.parametrize(
    "field",
    [[], "x", {"short": {}}, {A.upper(): {}}, {A: "no"}, {A: {"reason": 5}}, {A: {"reason": "x" * 300}}, {A: None}],
)
def test_list_that_cannot_be_read_is_refused_not_ignored(field):
    refused("TRUST_REVOKED", read_revoked, Targets(unrecognized_fields={"x-revoked": field}))


def test_list_beyond_what_a_device_keeps_is_refused():
    digests = {f"{n:064x}": {"reason": "", "at_ms": 1} for n in range(MAX_REVOKED + 1)}
    refused("TRUST_REVOKED", read_revoked, Targets(unrecognized_fields={"x-revoked": digests}))
    digests.popitem()
    assert len(read_revoked(Targets(unrecognized_fields={"x-revoked": digests}))) == MAX_REVOKED


def test_repository_without_the_role_revokes_nothing(holders):
    wanted = holders.publish("1.0.0", 1)
    with holders.store() as store:
        assert store.refresh(holders.now()).revocation_version == 0
        assert store.standing(wanted.sha256, running=False) == "clear"
        assert store.why_revoked(wanted.sha256) is None
        store.authorize(MODEL, wanted, hardware="x", now_ms=holders.now())


def test_one_signature_keeps_a_bundle_from_being_installed_and_lets_it_run_on(oncall):
    wanted = oncall.publish("1.0.0", 1)
    with oncall.store() as store:
        store.refresh(oncall.now())
        store.authorize(MODEL, wanted, hardware="x", now_ms=oncall.now())
        oncall.repository().publish(oncall.sign_role("revocation", revoking(wanted.sha256), "oncall1"))
        assert store.refresh(oncall.now()).revocation_version == 2
        error = refused("TRUST_REVOKED", store.authorize, MODEL, wanted, hardware="x", now_ms=oncall.now())
        assert error.details["reason"] == "unsafe"
        assert (store.standing(wanted.sha256, running=True), store.standing(A, running=False)) == ("warned", "clear")
        assert store.why_revoked(wanted.sha256) == Revoked("unsafe", 5)


def test_two_signatures_stop_it_where_it_runs_also_after_a_restart_without_network(oncall):
    wanted = oncall.publish("1.0.0", 1)
    oncall.repository().publish(oncall.sign_role("revocation", revoking(wanted.sha256), "oncall1", "oncall2"))
    with oncall.store() as store:
        store.refresh(oncall.now())
    for path in (oncall.folder / "dev-1" / "metadata").glob("*.json"):
        path.unlink()
    with oncall.store() as store:
        assert store.standing(wanted.sha256, running=True) == "revoked"


def test_second_signature_added_later_gives_the_missing_strength(oncall):
    oncall.repository().publish(oncall.sign_role("revocation", revoking(A), "oncall1"))
    with oncall.store() as store:
        store.refresh(oncall.now())
        assert store.standing(A, running=True) == "warned"
        oncall.repository().publish(oncall.sign_role("revocation", revoking(A), "oncall1", "oncall2"))
        store.refresh(oncall.now())
        assert store.standing(A, running=True) == "revoked"
        oncall.repository().publish(oncall.sign_role("revocation", revoking(B), "oncall2"))
        store.refresh(oncall.now())
        assert [store.standing(digest, running=True) for digest in (A, B)] == ["revoked", "warned"]


def test_one_key_of_one_person_is_enough_where_there_is_no_other(found):
    holders = found(revocation=(("oncall1",), 1))
    holders.repository().publish(holders.sign_role("revocation", revoking(A), "oncall1"))
    with holders.store() as store:
        store.refresh(holders.now())
        assert store.standing(A, running=True) == "revoked"


def test_attack_17_list_rolled_back_with_stolen_online_keys(oncall):
    oncall.repository().publish(oncall.sign_role("revocation", revoking(A), "oncall1"))
    with oncall.store() as store:
        store.refresh(oncall.now())
        before = store.floors
    for path in (oncall.folder / "dev-1" / "metadata").glob("*.json"):
        path.unlink()  # TUF's own protection is lost with its cache
    oncall.serve({"1.revocation.json": (oncall.metadata / "1.revocation.json").read_bytes()})
    with oncall.store() as store:
        refused("TRUST_ROLLBACK_REVOCATION", store.refresh, oncall.now())
        assert (store.floors.denied, store.floors.roles["revocation"]) == (before.denied, before.roles["revocation"])
        assert store.standing(A, running=False) == "revoked"


def test_attack_17_list_that_forgets_is_remembered_against(oncall):
    """With one revocation key stolen as well: a newer list says less, and devices go by what they know."""
    oncall.repository().publish(oncall.sign_role("revocation", revoking(A), "oncall1", "oncall2"))
    with oncall.store() as store:
        store.refresh(oncall.now())
        oncall.serve(oncall.sign_role("revocation", forgetting, "oncall1"))
        assert store.refresh(oncall.now()).revocation_version == 3
        assert store.standing(A, running=True) == "revoked"


def test_attack_17_list_withheld_authorises_nothing(oncall):
    wanted = oncall.publish("1.0.0", 1)
    oncall.repository().publish(oncall.sign_role("revocation", revoking(A), "oncall1"))
    (oncall.metadata / "2.revocation.json").unlink()
    with oncall.store() as store:
        with pytest.raises(TryAgain) as caught:
            store.refresh(oncall.now())
        assert caught.value.code == "METADATA_UNREACHABLE"
        with pytest.raises(TryAgain):
            store.authorize(MODEL, wanted, hardware="x", now_ms=oncall.now())


def test_list_signed_by_nobody_trusted_is_refused(oncall):
    oncall.serve(oncall.sign_role("revocation", revoking(A), "vision1", "targets"))
    with oncall.store() as store:
        refused("TRUST_UNSIGNED_REVOCATION", store.refresh, oncall.now())
        assert store.standing(A, running=False) == "clear"


def test_role_hidden_behind_another_is_refused(oncall):
    def shadow(targets):
        roles = targets.delegations.roles
        first = roles.pop("team-vision")
        first.paths = [".revocation/*"]
        targets.delegations.roles = {"team-vision": first, **roles}

    oncall.serve(oncall.sign_role("targets", shadow, "targets"))
    with oncall.store() as store:
        refused("TRUST_MIX", store.refresh, oncall.now())


def test_factory_bundle_is_revoked_by_the_targets_role_only(oncall):
    wanted = oncall.publish("1.0.0", 1)
    oncall.repository().publish(oncall.sign_role("revocation", revoking(wanted.sha256), "oncall1", "oncall2"))
    with oncall.store(factory=frozenset({wanted.sha256})) as store:
        store.refresh(oncall.now())
        assert store.standing(wanted.sha256, running=True) == "clear"
        store.authorize(MODEL, wanted, hardware="x", now_ms=oncall.now())
        oncall.repository().publish(oncall.sign_role("targets", revoking(wanted.sha256), "targets"))
        store.refresh(oncall.now())
        assert store.standing(wanted.sha256, running=True) == "revoked"
        refused("TRUST_REVOKED", store.authorize, MODEL, wanted, hardware="x", now_ms=oncall.now())


def test_attack_27_new_revocation_keys_lift_what_a_stolen_one_forbade(oncall):
    oncall.serve(oncall.sign_role("revocation", revoking(A, B, C, reason="thief"), "oncall1"))
    with oncall.store() as store:
        store.refresh(oncall.now())
        assert [store.standing(A, running=running) for running in (True, False)] == ["warned", "revoked"]

        def rotate(targets):
            targets.revoke_key(oncall.keys["oncall1"].public_key.keyid, "revocation")
            targets.add_key(oncall.keys["kit1"].public_key, "revocation")

        def only_honest(targets):
            forgetting(targets)
            revoking(C, reason="ours")(targets)

        oncall.serve(
            {
                **oncall.sign_role("targets", rotate, "targets"),
                **oncall.sign_role("revocation", only_honest, "kit1", "oncall2"),
            }
        )
        store.refresh(oncall.now())
        assert [store.standing(digest, running=False) for digest in (A, B, C)] == ["clear", "clear", "revoked"]
        assert store.standing(C, running=True) == "revoked"


def test_unreadable_list_is_refused_and_the_one_before_binds(oncall):
    oncall.repository().publish(oncall.sign_role("revocation", revoking(A), "oncall1"))
    with oncall.store() as store:
        store.refresh(oncall.now())

        def garble(targets):
            targets.unrecognized_fields["x-revoked"] = {"everything": {}}

        oncall.serve(oncall.sign_role("revocation", garble, "oncall1"))
        refused("TRUST_REVOKED", store.refresh, oncall.now())
        assert store.standing(A, running=False) == "revoked"


def test_one_key_under_two_ids_is_no_second_signature(oncall):
    from securesystemslib.signer import SSlibKey

    def twice(targets):
        public = oncall.keys["oncall1"].public_key.to_dict()
        targets.add_key(SSlibKey.from_dict("f" * 64, dict(public)), "revocation")

    oncall.serve(oncall.sign_role("targets", twice, "targets"))
    with oncall.store() as store:
        refused("TRUST_THRESHOLD", store.refresh, oncall.now())


def test_revocation_is_judged_before_the_assignment(oncall):
    """Step 5 before step 6: while the list cannot be had, not even a good assignment is looked at."""
    from bundles.trust.director import sign_desired
    from bundles.wire.messages import Desired

    document = sign_desired(Desired("dev-1", 1, 1, oncall.now() + 10**6, {}), oncall.keys["director"])
    with oncall.store() as store:
        store.refresh(oncall.now())
    (oncall.folder / "dev-1" / "metadata" / "revocation.json").unlink()
    with oncall.store() as store:
        with pytest.raises(TryAgain):
            store.accept_desired(document, oncall.now())
        assert store.floors.gen == 0
        store.refresh(oncall.now())
        assert store.accept_desired(document, oncall.now()).gen == 1


def test_list_has_no_targets_and_its_file_is_ordinary_metadata(oncall):
    role = Metadata[Targets].from_file(str(oncall.metadata / "1.revocation.json")).signed
    assert (role.targets, role.unrecognized_fields) == ({}, {"x-revoked": {}})


def test_power_cut_at_every_write_while_a_revocation_arrives(oncall):
    """Whatever was told before the cut is still known after it, and the next refresh completes the rest."""
    wanted = oncall.publish("1.0.0", 1)

    class PowerCut(BaseException):
        """Not an error a program could handle."""

    for device in (f"cut-{number}" for number in range(20)):
        with oncall.store(device, write=write_quickly) as store:
            store.refresh(oncall.now())
    oncall.repository().publish(oncall.sign_role("revocation", revoking(wanted.sha256), "oncall1", "oncall2"))
    cut = 0
    for cut in range(20):
        writes = 0

        def failing(path, content, *, mode=0o644, cut=cut):
            nonlocal writes
            if writes == cut:
                path.with_name(path.name + ".new").write_bytes(content[: len(content) // 2])
                raise PowerCut
            writes += 1
            write_quickly(path, content, mode=mode)

        standing_before, was_cut = "clear", False
        with oncall.store(f"cut-{cut}", write=failing) as store:
            try:
                store.refresh(oncall.now())
            except PowerCut:
                was_cut = True
            standing_before = store.standing(wanted.sha256, running=True)
        with oncall.store(f"cut-{cut}", write=write_quickly) as store:
            assert store.standing(wanted.sha256, running=True) in {standing_before, "revoked"}
            store.refresh(oncall.now())
            assert store.standing(wanted.sha256, running=True) == "revoked"
        if not was_cut:
            break
    assert cut > 5
