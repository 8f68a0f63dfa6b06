"""Power fails at every effect and every disk operation of an update: the old release or the new one answers, whole.

Every point is taken, in each of four ways a disk may come back (what was not made durable is lost, kept, or only names
or only contents last). The number of points is printed.
"""

import copy
from contextlib import suppress

import pytest

from agent.core import effects as fx
from agent.core.journal import JournalUnreadable
from agent.core.state import Step
from agent.core.updater import update
from agent.store import Store

MODES = ("lost", "kept", "names", "contents")


@pytest.fixture
def stories(world):
    """Return {name: (prepared device, how it begins, digests that may answer, step and digest it must end with)}."""
    releases, blobs = {}, {}
    for n in (1, 2, 3):
        releases[n], content = world.bundle(n)
        blobs |= content
    a, b, c = (releases[n] for n in (1, 2, 3))

    def device_with(*installed, update_function=update):
        device = world.device(world.disk(), blobs, update_function)
        device.boot()
        for gen, release in enumerate(installed, 1):
            device.ask(gen, release)
            device.run()
            assert device.answering == release.sha256
        device.activations.clear()
        return device

    def refusing(device, release):
        device.refuses = {release.sha256}
        return device

    def build(update_function=update):
        make = lambda *installed: device_with(*installed, update_function=update_function)  # noqa: E731
        return {
            "first release": (make(), (1, a), {"", a.sha256}, (Step.CONFIRMED, a.sha256)),
            "update": (make(a, b), (3, c), {b.sha256, c.sha256}, (Step.CONFIRMED, c.sha256)),
            "unhealthy": (refusing(make(a, b), c), (3, c), {b.sha256, c.sha256}, (Step.ROLLED_BACK, b.sha256)),
            "roll back": (make(a, b), (3, a), {a.sha256, b.sha256}, (Step.CONFIRMED, a.sha256)),
            "take out": (make(a, b), (3, None), {b.sha256, ""}, (Step.IDLE, "")),
        }

    return build


def story_points(story):
    device, begin, _, _ = copy.deepcopy(story)
    first = device.disk.points
    device.ask(*begin)
    device.run()
    return first, device.disk.points


def cut_once(world, story, point, mode):
    """Run a story with power failing at one point, and to its end; return the device."""
    device, begin, allowed, end = copy.deepcopy(story)
    device.ask(*begin)
    device.disk.cut_at = point
    with pytest.raises(world.power_cut):
        device.run()
    device.disk.crash(mode)
    device.now += 30_000
    device.boot()
    device.run_serving()
    device.check(allowed)
    device.run()
    device.check({end[1]})
    assert device.state.step is end[0], (device.state.step, device.state.reason)
    return device


@pytest.mark.parametrize("name", ["first release", "update", "unhealthy", "roll back", "take out"])
def test_power_cut_at_every_point_ends_on_the_old_release_or_the_new(world, stories, name):
    story = stories()[name]
    first, last = story_points(story)
    for point in range(first + 1, last + 1):
        for mode in MODES:
            try:
                cut_once(world, story, point, mode)
            except AssertionError as error:
                raise AssertionError(f"{name}, point {point - first} of {last - first}, {mode}: {error}") from error
    print(f"{name}: {last - first} points x {len(MODES)} disks = {(last - first) * len(MODES)} power cuts")
    if name == "update":
        assert last - first > 100


def test_two_power_cuts_end_well_too(world, stories):
    story = stories()["update"]
    first, last = story_points(story)
    cuts = 0
    for point in range(first + 1, last + 1, 9):
        for second in range(1, 80, 9):
            device, begin, allowed, end = copy.deepcopy(story)
            device.ask(*begin)
            device.disk.cut_at = point
            for more in (second, None):
                with suppress(world.power_cut):  # the second cut may lie beyond the end
                    device.run()
                cuts += 1
                device.disk.crash("lost")
                device.disk.cut_at = device.disk.points + more if more else None
                try:
                    device.boot()
                except world.power_cut:
                    device.disk.crash("lost")
                    device.boot()
            device.run()
            # Two starts in the middle of an activation deny the release: then the old one answers.
            assert device.answering in allowed
            assert device.state.step in (end[0], Step.ROLLED_BACK)
            device.check(allowed)
    print(f"two cuts: {cuts} power cuts")


def test_power_cut_at_every_activation_ends_on_the_old_release(world, stories):
    device, begin, _, _ = stories()["update"]
    wanted = begin[1].sha256
    original = device.carry_out

    def cut(effect):
        original(effect)
        if isinstance(effect, fx.Activate):
            raise world.power_cut

    device.carry_out = cut
    device.ask(*begin)
    is_running = False
    for _ in range(12):
        try:
            if is_running:
                device.run()
                break
            device.boot()
            is_running = True
        except world.power_cut:
            device.disk.crash("lost")
            is_running = False
    assert device.activations[wanted] == 2
    assert (device.state.step, device.state.reason) == (Step.ROLLED_BACK, "reboot_loop")
    device.check({device.state.committed.sha256})


def test_a_full_disk_at_any_point_loses_nothing_and_the_update_finishes(stories):
    story = stories()["update"]
    first, last = story_points(story)
    for point in range(first + 1, last + 1):
        device, begin, allowed, end = copy.deepcopy(story)
        device.disk.full_at, device.disk.full_for = point, 3
        device.ask(*begin)
        while device.queue or device.waits_for_disk or device.timer:
            device.run(limit=1, is_over=False)
            assert device.answering in allowed, f"point {point - first}"
            # Between a rename and a folder that could not be synced the pointer may be ahead of what answers.
            assert device.store.active(device.state.model) in allowed
        assert (device.state.step, device.answering) == end, f"point {point - first}: {device.state}"
        device.check(allowed)


def test_a_damaged_file_of_the_active_bundle_is_found_at_start_and_mended(world, stories):
    device, _, _, _ = stories()["update"]
    active = device.answering
    slot = device.store.slot(active)
    node = device.disk._file(f"{slot.folder}/nested/model.onnx")
    node.seen = node.durable = b"x" + node.seen[1:]
    device.boot()
    device.run()
    assert device.answering == active
    assert device.state.step is Step.CONFIRMED
    device.store.check_slot(active)


# --- the tests' own teeth: mistakes planted on purpose must be found ---


def journal_last(state, event):
    """The planted mistake: effects first, journal after."""
    new, effects = update(state, event)
    journals = tuple(effect for effect in effects if isinstance(effect, fx.Journal))
    return new, (*(effect for effect in effects if not isinstance(effect, fx.Journal)), *journals)


def test_writing_the_journal_after_the_effects_is_found(world, stories):
    story = stories(journal_last)["update"]
    assert is_found(world, story, ("kept",))


@pytest.mark.parametrize("forgets", ["fsync", "fsync_dir"])
def test_a_journal_that_is_not_made_durable_is_found(world, stories, monkeypatch, forgets):
    def replace(self, path, data):
        self._fs.write(path + ".tmp", data)
        if forgets != "fsync":
            self._fs.fsync(path + ".tmp")
        self._fs.rename(path + ".tmp", path)
        if forgets != "fsync_dir":
            self._fs.fsync_dir(path.rpartition("/")[0] or ".")

    monkeypatch.setattr(Store, "_replace", replace)
    assert is_found(world, stories()["update"], MODES)


def is_found(world, story, modes):
    first, last = story_points(story)
    for point in range(first + 1, last + 1):
        for mode in modes:
            try:
                cut_once(world, story, point, mode)
            except (AssertionError, JournalUnreadable):
                return True
    return False
