"""The release a device was made with answers where nothing else on it is sound, without a server, for ever."""

import json

import pytest

from agent.runner import factory as factory_module
from agent.runner.factory import fitting_files, install_factory
from agent.store import LocalFileSystem, Store
from bundles.errors import AskPerson, BundleRefused

MODEL = "vision/digits"


def place(rig, release):
    """Install a factory bundle that the settings name."""
    archive = rig.archives[release.sha256]
    (rig.disk / "config.toml").write_text(f"factory = {json.dumps([archive.sha256])}\nreserve_mib = 1\n")
    return install_factory(rig.disk, archive.path)


@pytest.fixture
def rig(make_rig):
    return make_rig()


def test_a_device_that_never_met_a_server_answers_with_its_factory_release(rig):
    release = rig.release(1)
    placed = place(rig, release)
    assert (placed.sha256, placed.counter, placed.target) == (release.sha256, 1, release.target)
    rig.is_online = False
    rig.start()
    rig.settle("confirmed", release.sha256)
    rig.until(lambda: rig.answer() == release.sha256, "the factory release answers")
    rig.restart()
    rig.until(lambda: rig.answer() == release.sha256, "it answers after a start")
    assert not rig.asked


@pytest.mark.parametrize("lost", ["journal", "journal and pointer", "journal unreadable, slots gone"])
def test_a_lost_journal_ends_on_what_is_sound(rig, lost):
    factory, later = rig.release(1), rig.release(2)
    place(rig, factory)
    rig.start()
    rig.settle("confirmed", factory.sha256)
    rig.install(later)
    rig.stop()
    rig.is_online = False
    name = MODEL.replace("/", "+")
    if lost == "journal unreadable, slots gone":
        (rig.disk / "journal" / name).write_bytes(b"garbage")
        for slot in (rig.disk / "slots").iterdir():
            (slot / "bundle.json").write_bytes(b"{")
    else:
        (rig.disk / "journal" / name).unlink()
        if lost == "journal and pointer":
            (rig.disk / f"current.{name}").unlink()
    rig.start()
    expected = later if lost == "journal" else factory
    rig.until(lambda: rig.answer() == expected.sha256, "a sound release answers")


def test_damaged_slots_of_committed_and_previous_end_on_the_factory_release(rig):
    factory, second, third = rig.release(1), rig.release(2), rig.release(3)
    place(rig, factory)
    rig.start()
    rig.settle("confirmed", factory.sha256)
    rig.install(second, third)
    rig.stop()
    rig.is_online = False
    for release in (second, third):
        rig.damage(rig.blob(release))
    rig.start()
    rig.until(lambda: rig.answer() == factory.sha256, "the factory release answers")
    rig.is_online = True
    rig.settle("confirmed", third.sha256)
    assert rig.answer() == third.sha256, "and the update that was asked for is mended"


def test_a_damaged_slot_of_the_factory_release_itself_is_mended_from_its_own_copy(rig):
    factory, second = rig.release(1), rig.release(2)
    place(rig, factory)
    rig.start()
    rig.settle("confirmed", factory.sha256)
    rig.install(second)
    rig.ask(factory)  # asked for by name: it is no longer only the factory's
    rig.settle("confirmed", factory.sha256)
    rig.stop()
    assert not rig.asked.keys() & {e.sha256 for e in rig.archives[factory.sha256].manifest.files if e.role == "model"}
    rig.is_online = False
    for slot in (rig.disk / "slots").iterdir():
        for file in slot.rglob("*.fake"):
            rig.damage(file)
    rig.start()
    rig.until(lambda: rig.answer() == factory.sha256, "the factory's copy answers")


def test_no_collection_of_garbage_touches_the_factory_release(rig):
    factory = rig.release(1)
    place(rig, factory)
    rig.start()
    rig.install(*[rig.release(n) for n in range(2, 6)])
    rig.store.collect_garbage(())
    rig.store.check_slot(factory.sha256, rig.archives[factory.sha256].manifest.files)
    assert rig.store.factory(MODEL).sha256 == factory.sha256


def test_a_new_factory_bundle_takes_the_place_of_the_old_one(rig):
    first, second = rig.release(1), rig.release(2)
    place(rig, second)
    place(rig, first)  # an older one too: a person says which
    assert [p.name for p in (rig.disk / "factory").iterdir()] == [first.sha256]
    rig.damage(next((rig.disk / "factory" / first.sha256).rglob("*.fake")))
    place(rig, first)
    store = Store(LocalFileSystem(rig.disk))
    store.check_slot(first.sha256, rig.archives[first.sha256].manifest.files)


def test_what_neither_the_settings_nor_trust_name_is_no_factory_bundle(rig):
    archive = rig.archives[rig.release(1).sha256]
    with pytest.raises(AskPerson) as caught:  # not enrolled: there is no trust to ask
        install_factory(rig.disk, archive.path)
    assert caught.value.code
    assert not (rig.disk / "factory").exists()


def test_a_damaged_archive_is_no_factory_bundle(rig):
    release = rig.release(1)
    archive = rig.archives[release.sha256]
    data = bytearray(archive.path.read_bytes())
    at = data.index(b'"model":"digits"')
    data[at + 3] ^= 1
    archive.path.write_bytes(bytes(data))
    with pytest.raises(BundleRefused):
        place(rig, release)
    assert not (rig.disk / "factory").exists()


def test_a_running_agent_is_not_given_a_factory_bundle_behind_its_back(rig):
    lock = factory_module.lock_folder(rig.disk / "agent.lock")
    try:
        with pytest.raises(AskPerson) as caught:
            place(rig, rig.release(1))
        assert caught.value.code == "AGENT_RUNNING"
    finally:
        factory_module.os.close(lock)


def test_models_for_other_hardware_are_left_out(rig):
    archive = rig.archives[rig.release(1).sha256]
    assert set(fitting_files(archive.manifest, "cam-a")) == set(archive.manifest.files)
