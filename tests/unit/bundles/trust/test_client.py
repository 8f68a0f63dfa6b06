from __future__ import annotations

import msgspec
import pytest

from bundles.errors import TrustRefused, TryAgain
from bundles.trust.device.client import TrustStore
from bundles.trust.director import sign_desired
from bundles.trust.durable import write_quickly
from bundles.wire.messages import Desired

MODEL = "vision/digits"


def allowed(store, wanted, now_ms):
    try:
        store.authorize(MODEL, wanted, hardware="x", now_ms=now_ms)
    except TrustRefused as error:
        return {"TRUST_FLOOR": False}[error.code]
    return True


def test_floor_is_the_release_committed_before_never_arithmetic(holders):
    """Releases 5, 6 (halted) and 7: a roll back out of wave 3 reaches every device, nobody goes lower."""
    releases = {counter: holders.publish(f"{counter}.0.0", counter) for counter in (3, 5, 6, 7)}
    with holders.store("from-5") as straight, holders.store("from-3") as jumped, holders.store("from-6") as exposed:
        for store, path in ((straight, [3, 5, 7]), (jumped, [3, 7]), (exposed, [3, 5, 6, 5, 7])):
            store.refresh(holders.now())
            previous = 0
            for counter in path:
                store.authorize(MODEL, releases[counter], hardware="x", now_ms=holders.now())
                store.raise_floor(MODEL, counter, previous)
                previous = counter
        answers = {
            name: [counter for counter in releases if allowed(store, releases[counter], holders.now())]
            for name, store in (("from-5", straight), ("from-3", jumped), ("from-6", exposed))
        }
    assert answers == {"from-5": [5, 6, 7], "from-3": [3, 5, 6, 7], "from-6": [5, 6, 7]}


def test_rolling_back_keeps_both_releases_permitted(holders):
    old, new = holders.publish("1.0.0", 3), holders.publish("1.1.0", 7)
    with holders.store() as store:
        store.refresh(holders.now())
        assert store.raise_floor(MODEL, 3, 0) == 0
        assert store.raise_floor(MODEL, 7, 3) == 3
        assert store.raise_floor(MODEL, 3, 7) == 3  # rolled back: 7 is now the other one kept
        assert allowed(store, old, holders.now())
        assert allowed(store, new, holders.now())


def test_raising_a_floor_again_changes_nothing_and_never_lowers(holders):
    with holders.store() as store:
        assert [store.raise_floor(MODEL, 9, 8) for _ in range(2)] == [8, 8]
        assert store.raise_floor(MODEL, 9, 9) == 8
        assert store.raise_floor(MODEL, 5, 4) == 8
        assert store.raise_floor("vision/other", 2, 1) == 1
    with holders.store() as store:
        assert store.floors.releases == {MODEL: 8, "vision/other": 1}


def test_generation_is_on_disk_before_it_is_answered(holders, monkeypatch):
    """With a full disk the assignment is not accepted at all."""
    with holders.store() as store:
        store.refresh(holders.now())
        data = sign_desired(Desired("dev-1", 5, 1, holders.now() + 10**6, {}), holders.keys["director"])

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(store, "_write", full)
            with pytest.raises(TryAgain) as caught:
                store.accept_desired(data, holders.now())
        assert caught.value.code == "DISK_FULL", "an environment's fault, which is put off and held against nobody"
        assert store.floors.gen == 0
        store.accept_desired(data, holders.now())
    with holders.store() as store:
        assert store.floors.gen == 5


def test_one_process_at_a_time(holders):
    with holders.store(), pytest.raises(TryAgain) as caught:
        holders.store()
    assert caught.value.code == "TRUST_LOCKED"
    holders.store().close()


def test_restarted_offline_it_works_from_its_cache(holders):
    wanted = holders.publish("1.0.0", 1)
    with holders.store() as store:
        store.refresh(holders.now())
        store.authorize(MODEL, wanted, hardware="x", now_ms=holders.now())
    for path in holders.metadata.iterdir():
        path.unlink()
    data = sign_desired(Desired("dev-1", 1, 1, holders.now() + 10**6, {MODEL: wanted}), holders.keys["director"])
    with holders.store() as store:
        with pytest.raises(TryAgain):
            store.refresh(holders.now())
        assert store.accept_desired(data, holders.now()).gen == 1
        store.authorize(MODEL, wanted, hardware="x", now_ms=holders.now())
        assert store.summary(holders.now()).timestamp_version == 2


@pytest.mark.parametrize("is_there", [True, False])
def test_a_refresh_that_broke_off_before_the_teams_role_is_no_refusal(holders, is_there):
    """Power, or the network, fails between the snapshot and the role it names; the device starts without a network."""
    if is_there:
        old = holders.publish("1.0.0", 3)
        with holders.store() as store:
            store.refresh(holders.now())
            store.authorize(MODEL, old, hardware="x", now_ms=holders.now())
    wanted = holders.publish("1.1.0", 5)
    with holders.store() as store:
        store.refresh(holders.now())
    with holders.store() as store:
        with pytest.raises(TryAgain) as told:
            store.authorize(MODEL, wanted, hardware="x", now_ms=holders.now())
        assert told.value.code == "METADATA_NOT_REFRESHED"
        store.refresh(holders.now())
        assert store.authorize(MODEL, wanted, hardware="x", now_ms=holders.now()).sha256 == wanted.sha256


def test_offline_for_months_the_cache_is_harmless_and_catches_up(holders):
    holders.publish("1.0.0", 1)
    with holders.store() as store:
        store.refresh(holders.now())
        floors = store.floors
    late = holders.now() + 60 * 86_400_000
    with holders.store() as store:
        assert (store.summary(late).age_s // 86_400, store.summary(late).level) == (60, "alarm")
        with pytest.raises(TrustRefused) as caught:
            store.accept_desired(b"{}", late)
        assert caught.value.code == "TRUST_EXPIRED_TIMESTAMP"
        assert store.floors == floors
        assert store.refresh(holders.now()).timestamp_version == 2


def test_age_grows_until_the_server_signs_again(holders):
    with holders.store() as store:
        store.refresh(holders.now())
        later = store.summary(holders.now() + 3 * 86_400_000)
        assert (later.age_s // 86_400, later.life_s) == (3, 14 * 86_400)


def test_a_simulated_device_may_skip_flushing(holders):
    wanted = holders.publish("1.0.0", 1)
    with holders.store("virtual", write=write_quickly) as store:
        store.refresh(holders.now())
        store.authorize(MODEL, wanted, hardware="x", now_ms=holders.now())
    with holders.store("virtual") as store:
        assert store.floors.roles["team-vision"].version == 2


def test_unknown_fields_of_an_assignment_bind_too(holders):
    """A newer server's fields are ignored here, but the same generation may not say other things in them."""
    from bundles.digest import canonical_json

    def document(**extra):
        desired = Desired("dev-1", 1, 1, holders.now() + 10**6, {})
        signed = canonical_json({**msgspec.to_builtins(desired), "_type": "wavegate-desired", "v": 1, **extra})
        signature = holders.keys["director"].sign(signed)
        entry = canonical_json({"keyid": signature.keyid, "sig": signature.signature})
        return b'{"signed":' + signed + b',"signatures":[' + entry + b"]}"

    with holders.store() as store:
        store.refresh(holders.now())
        store.accept_desired(document(later=1), holders.now())
        store.accept_desired(document(later=1, trust_version=7, issued=2), holders.now())
        with pytest.raises(TrustRefused) as caught:
            store.accept_desired(document(later=2), holders.now())
    assert caught.value.code == "TRUST_ROLLBACK_DIRECTOR"


def test_power_cut_at_every_write_of_a_devices_life(holders):
    """Wherever the power goes, the device comes back, accepts what is honest, and has forgotten no floor it used."""

    class PowerCut(BaseException):
        """Not an error a program could handle."""

    wanted = [holders.publish(f"1.{n}.0", n + 1) for n in range(2)]
    data = [
        sign_desired(
            Desired("dev-1", gen, 1, holders.now() + 10**6, {MODEL: wanted[gen - 1]}), holders.keys["director"]
        )
        for gen in (1, 2)
    ]

    def live(store):
        store.refresh(holders.now())
        for gen in (1, 2):
            if store.floors.gen <= gen:
                store.accept_desired(data[gen - 1], holders.now())
                store.authorize(MODEL, wanted[gen - 1], hardware="x", now_ms=holders.now())
        store.raise_floor(MODEL, 2, 1)

    survived = 0
    for cut in range(100):
        writes = 0

        def failing(path, content, *, mode=0o644, cut=cut):
            nonlocal writes
            if writes == cut:
                path.with_name(path.name + ".new").write_bytes(content[: len(content) // 2])
                raise PowerCut
            writes += 1
            write_quickly(path, content, mode=mode)

        device = f"cut-{cut}"
        gen = -1
        store = None
        try:
            store = TrustStore(
                holders.folder / device, holders.root, device="dev-1", fetch=holders.fetch, write=failing
            )
            live(store)
        except PowerCut:
            gen = store.floors.gen if store else -1
            survived += 1
        finally:
            if store:
                store.close()
        with TrustStore(holders.folder / device, holders.root, device="dev-1", fetch=holders.fetch) as again:
            assert again.floors.gen >= gen
            live(again)
            assert again.floors.releases == {MODEL: 1}
        if gen == -1 and store is not None:
            break
    assert survived == cut
    assert cut > 10
