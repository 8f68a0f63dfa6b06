"""What was on the disk is damaged or gone: it is told, mended at the price of the damage, and something answers."""

import shutil
import threading
from collections import Counter

import pytest

from agent.runner import steps as steps_module
from agent.runner.models import EngineModels
from bundles.digest import sha256_hex


def model_blob(rig, release):
    return rig.archives[release.sha256].manifest.file_with_role("model").sha256


def test_damage_in_the_store_costs_the_damaged_bytes_once_and_no_more(rig):
    """Peers re-download whole releases, in silence and for ever, where their store was damaged."""
    first, second = rig.release(1, size=100_000), rig.release(2, size=100_000)
    rig.install(first, second)
    rig.stop()
    before = Counter(rig.asked)
    rig.damage(rig.blob(second))
    rig.start()
    rig.until(lambda: rig.asked != before, "the damage is found")
    rig.settle("confirmed", second.sha256)
    rig.until(lambda: rig.answer() == second.sha256, "the release answers")
    assert rig.asked - before == Counter({model_blob(rig, second): 1})
    told = [row for row in rig.events() if row["kind"] == "degraded"]
    assert [row["code"] for row in told] == ["STORE_CORRUPT"], "not in silence"
    for _ in range(2):
        rig.restart()
        rig.until(lambda: rig.answer() == second.sha256, "it answers after a start")
    assert rig.asked - before == Counter({model_blob(rig, second): 1})


def test_damage_that_comes_back_ends_and_does_not_loop(rig):
    """A disk that keeps nothing right: a bounded number of downloads, then a failure with its reason."""
    first, second = rig.release(1), rig.release(2)
    rig.install(first)
    stage = rig.store.stage

    def stage_badly(sha256, files):
        slot = stage(sha256, files)
        if sha256 == second.sha256:
            with next((rig.disk / slot.folder).rglob("*.fake")).open("r+b") as stream:
                stream.write(b"#")
        return slot

    rig.store.stage = stage_badly
    rig.ask(second)
    state = rig.settle("failed", first.sha256)
    assert state.reason == "verify"
    assert rig.asked[model_blob(rig, second)] <= 4
    assert rig.answer() == first.sha256


def test_a_blob_that_was_lost_comes_from_the_slot_that_has_it_and_not_from_the_network(rig):
    first, second = rig.release(1), rig.release(2)
    rig.install(first, second)
    for path in (rig.disk / "blobs" / "sha256").iterdir():
        path.unlink()
    before = Counter(rig.asked)
    third = rig.release(3)
    rig.install(third)
    fetched = rig.asked - before
    shared = {rig.archives[third.sha256].manifest.file_with_role(role).sha256 for role in ("goldens", "contract")}
    assert not shared & fetched.keys()
    assert set(fetched) == {third.sha256, model_blob(rig, third)}


def test_a_file_missing_from_a_slot_is_damage_and_not_the_fault_of_the_release(rig):
    first, second = rig.release(1), rig.release(2)
    rig.install(first, second)
    rig.stop()
    slot = rig.store.slot(second.sha256)
    next((rig.disk / slot.folder).rglob("*.fake")).unlink()
    rig.start()
    rig.until(lambda: rig.answer() == second.sha256, "mended")
    assert rig.settle("confirmed", second.sha256).tried == ()


@pytest.mark.parametrize("what", ["slot", "blob"])
def test_a_damaged_manifest_is_mended_from_its_other_copy_without_the_network(rig, what):
    first, second = rig.release(1), rig.release(2)
    rig.install(first, second)
    rig.stop()
    slot = rig.disk / rig.store.slot(second.sha256).folder / "bundle.json"
    rig.damage(slot if what == "slot" else rig.disk / "blobs" / "sha256" / second.sha256)
    before, rig.is_online = Counter(rig.asked), False
    rig.start()
    rig.until(lambda: rig.answer() == second.sha256, "mended")
    rig.settle("confirmed", second.sha256)
    assert rig.asked == before


def test_a_large_slot_answers_first_and_is_hashed_behind_that(rig, monkeypatch):
    first, second = rig.release(1, size=100_000), rig.release(2, size=100_000)
    rig.install(first, second)
    rig.stop()
    monkeypatch.setattr(steps_module, "HASHED_FIRST_BYTES", 1000)
    rig.damage(rig.blob(second, "goldens"))  # still loads: only the hash can tell
    check = type(rig.store).check_slot
    answered = []

    def check_after_an_answer(store, sha256, files=(), pause=lambda: None):
        if sha256 == second.sha256 and not answered:
            rig.until(lambda: rig.answer() == second.sha256, "it answers before it is hashed")
            rig.until(lambda: rig.state().step == "confirmed", "and its lane is free")
            answered.append(True)
        check(store, sha256, files, pause)

    monkeypatch.setattr(type(rig.store), "check_slot", check_after_an_answer)
    rig.start()
    rig.until(lambda: answered, "the hash behind the answer")
    rig.until(lambda: [r for r in rig.events() if r["code"] == "STORE_CORRUPT"], "the damage told")
    rig.settle("confirmed", second.sha256)
    rig.until(lambda: rig.answer() == second.sha256, "and mended")


def test_a_large_slot_damaged_in_the_middle_of_an_activation_is_hashed_before_it_is_tried_again(
    rig, make_rig, tmp_path, monkeypatch
):
    """Power fails while it is activated, and the disk gives back something else: another answers meanwhile anyway."""
    first, second = rig.release(1, size=100_000), rig.release(2, size=100_000)
    rig.install(first)
    activate, gate, entered = rig.models.activate, threading.Event(), threading.Event()

    def slow_activate(bundle):
        entered.set()
        assert gate.wait(30)
        activate(bundle)

    rig.models.activate = slow_activate
    rig.ask(second)
    assert entered.wait(30)
    shutil.copytree(rig.disk, tmp_path / "after-the-cut", ignore=shutil.ignore_patterns("*.sock"))
    gate.set()
    rig.stop()

    loaded = []
    original = EngineModels.activate

    def activate_and_look(models, bundle):
        loaded.append((bundle.release.sha256, sha256_hex(bundle.model_path.read_bytes())))
        original(models, bundle)

    monkeypatch.setattr(EngineModels, "activate", activate_and_look)
    monkeypatch.setattr(steps_module, "HASHED_FIRST_BYTES", 1000)
    after = make_rig(tmp_path / "after-the-cut")
    after.archives, after.blobs = rig.archives, rig.blobs
    for slot in (after.disk / "slots").iterdir():
        if sha256_hex((slot / "bundle.json").read_bytes()) == second.sha256:
            after.damage(next(slot.rglob("*.fake")))
    after.start()
    after.settle("confirmed", second.sha256)
    assert {(sha256, content) for sha256, content in loaded if sha256 == second.sha256} == {
        (second.sha256, model_blob(rig, second))
    }
