"""Disks that are full, damaged or too small: the agent answers, says why, and goes on by itself."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from agent.store import LocalFileSystem
from agent.store.files import disk_full
from bundles.errors import TryAgain

MIB = 1024 * 1024


class SmallDisk(LocalFileSystem):
    """A disk that has room for so many more bytes of our own."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.left = 1 << 40

    def _put(self, path, data, flags):
        if len(data) > self.left:
            raise disk_full(f"{path} could not be written")
        self.left -= len(data)
        super()._put(path, data, flags)

    def free_bytes(self):
        return max(0, self.left)


def model_blob(rig, release):
    return rig.archives[release.sha256].manifest.file_with_role("model").sha256


@pytest.fixture
def small(make_rig):
    rig = make_rig(fs=SmallDisk, reserve_bytes=MIB)
    rig.start()
    return rig


def test_a_release_that_does_not_fit_is_put_off_and_says_how_much_is_missing(small):
    first, second = small.release(1), small.release(2, size=3 * MIB)
    small.install(first)
    disk = small.store._fs
    needed = small.archives[second.sha256].manifest.file_with_role("model").length
    disk.left = MIB + needed - 1000 + second.length
    small.ask(second)
    state = small.settle("deferred", first.sha256)
    assert (state.reason, state.code) == ("disk", "DISK_FULL")
    assert "bytes are missing" in state.detail, state.detail
    assert small.asked[model_blob(small, second)] == 0, "not a byte of what cannot be kept is fetched"
    assert small.answer() == first.sha256
    disk.left = 40 * MIB
    small.look_again()
    small.settle("confirmed", second.sha256)
    assert small.state().tried == (), "nothing was held against the release"


def test_what_is_there_already_is_not_counted_again(small):
    first, second = small.release(1), small.release(2, size=3 * MIB)
    small.install(first)
    small.until(small.is_idle, "the commit's own collection of garbage")
    entry = small.archives[second.sha256].manifest.file_with_role("model")
    part = small.store.blob(entry.sha256, entry.length)
    part.append(small.blobs[entry.sha256][: 2 * MIB])
    small.store._fs.left = MIB + (entry.length - 2 * MIB) + 64 * 1024
    with small.store.coming(small.archives[second.sha256].manifest.files):
        pass  # fits: only what is missing needs room


def test_two_models_at_once_are_not_promised_the_same_room(small):
    one, two = (small.release(1, model, size=3 * MIB) for model in ("digits", "letters"))
    small.store._fs.left = MIB + 4 * MIB
    files = [small.archives[release.sha256].manifest.files for release in (one, two)]
    with small.store.coming(files[0]):
        with pytest.raises(TryAgain) as caught:
            small.store.coming(files[1]).__enter__()
        assert caught.value.code == "DISK_FULL"
        assert caught.value.details["missing_bytes"] > 0
    with small.store.coming(files[1]):
        pass


def test_a_download_never_eats_into_the_reserve_that_journal_and_spool_need(small):
    """Something else fills the disk while a release is on its way: the reserve stays for the agent's own books."""
    first, second = small.release(1), small.release(2, size=3 * MIB)
    small.install(first)
    disk = small.store._fs
    original, seen = small.store.blob, []

    def blob(sha256, length):
        part = original(sha256, length)
        append = part.append

        def append_and_fill(data):
            disk.left = min(disk.left, 2 * MIB)  # an application writes
            append(data)
            seen.append(disk.left)

        part.append = append_and_fill
        return part

    small.store.blob = blob
    small.ask(second)
    small.settle("deferred", first.sha256)
    assert seen
    assert min(seen) >= MIB, "the reserve is whole"
    assert disk.left >= MIB - 64 * 1024  # journal and spool were written out of it meanwhile
    assert small.answer() == first.sha256


def test_a_full_disk_never_ends_the_agent(small):
    """Journal, spool and status cannot be written: it answers, and takes the update up when there is room."""
    first, second = small.release(1), small.release(2)
    small.install(first)
    disk = small.store._fs
    disk.left = 0
    small.ask(second)
    for _ in range(3):
        assert small.answer() == first.sha256
        time.sleep(0.05)
    assert small.state().gen < small.gen, "no step is taken that could not be written down"
    disk.left = 40 * MIB
    small.settle("confirmed", second.sha256)
    assert small.answer() == second.sha256
    assert small.schedule.failures == 0


def test_a_release_of_swap_cold_may_take_the_room_of_the_one_kept_to_return_to(make_rig):
    rig = make_rig(fs=SmallDisk, reserve_bytes=MIB)
    rig.start()
    first, second, third = (rig.release(n, size=2 * MIB, swap="cold") for n in (1, 2, 3))
    rig.install(first, second)
    disk, unlink = rig.store._fs, LocalFileSystem.unlink

    def freeing(path):
        if path.startswith("blobs/"):
            disk.left += disk.size(path) or 0
        unlink(disk, path)

    disk.unlink = freeing
    disk.left = MIB + MIB  # not enough beside the reserve, but enough without the first
    rig.ask(third)
    state = rig.settle("confirmed", third.sha256)
    assert rig.store.slot(first.sha256) is None, "the one before the committed one was given up"
    assert state.previous.sha256 == second.sha256, "and the committed one is the one to return to now"
    rig.store.check_slot(second.sha256, rig.archives[second.sha256].manifest.files)


def test_a_release_of_swap_hot_never_takes_the_room_of_the_one_kept_to_return_to(small):
    first, second, third = (small.release(n, size=2 * MIB) for n in (1, 2, 3))
    small.install(first, second)
    small.store._fs.left = MIB + MIB
    small.ask(third)
    small.settle("deferred", second.sha256)
    small.store.check_slot(first.sha256, small.archives[first.sha256].manifest.files)


def test_a_release_of_swap_cold_that_does_not_fit_even_so_costs_nobody_the_way_back(small):
    first, second = (small.release(n, size=2 * MIB, swap="cold") for n in (1, 2))
    third = small.release(3, size=8 * MIB, swap="cold")
    small.install(first, second)
    small.store._fs.left = MIB + 4 * MIB  # the first would bring two of the four that are missing
    small.ask(third)
    state = small.settle("deferred", second.sha256)
    assert (state.code, state.previous.sha256) == ("DISK_FULL", first.sha256)
    small.store.check_slot(first.sha256, small.archives[first.sha256].manifest.files)


def test_garbage_is_in_nobodys_way(small):
    """What a crash or a damaged disk left behind goes before an update is put off for want of room."""
    first, second = small.release(1), small.release(2, size=3 * MIB)
    small.install(first)
    small.until(small.is_idle, "the commit's own collection of garbage")
    left_over = small.store.blob("e" * 64, 3 * MIB)
    left_over.append(b"x" * 3 * MIB)
    disk, unlink = small.store._fs, LocalFileSystem.unlink

    def freeing(path):
        disk.left += (disk.size(path) or 0) if path.startswith("blobs/") else 0
        unlink(disk, path)

    disk.unlink = freeing
    disk.left = MIB + 512 * 1024
    small.ask(second)
    small.settle("confirmed", second.sha256)
    assert left_over.size() == 0
    assert not [row for row in small.events() if row["data"].get("phase") == "deferred"]


def test_success_is_told_only_of_the_release_that_answers(rig):
    """A peer's client claims success for an update while the old slot runs: what answers is what is told."""
    first, second = rig.release(1), rig.release(2)
    rig.install(first)
    activate = rig.models.activate
    rig.models.activate = lambda bundle: None  # "swapped", says a runtime in which nothing has changed
    rig.ask(second)
    rig.until(lambda: rig.state().step == "probation", "the probation")
    time.sleep(1.0)  # five probations long
    assert rig.state().step == "probation", "nothing is committed that does not answer"
    assert rig.answer() == first.sha256
    rig.until(lambda: rig.status().get("sha256") == first.sha256 and rig.status()["phase"] == "probation", "the status")
    assert not [
        row for row in rig.events() if row["data"].get("phase") == "confirmed" and row["sha256"] == second.sha256
    ]
    rig.models.activate = activate


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_on_a_disk_that_is_really_full_the_agent_answers_starts_and_recovers(make_rig, tmp_path):
    """A size-limited mount, filled to its last byte by somebody else, with a start in the middle."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", mount], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no mount here: {made.stderr.strip()}")
    try:
        rig = make_rig(mount, reserve_bytes=2 * MIB)
        rig.start()
        first, second, third = rig.release(1, size=MIB), rig.release(2, size=MIB), rig.release(3, size=20 * MIB)
        rig.install(first)
        fill(mount / "somebody-else")
        rig.ask(second)
        for _ in range(5):
            assert rig.answer() == first.sha256
            time.sleep(0.02)
        (mount / "somebody-else").unlink()
        rig.settle("confirmed", second.sha256)
        rig.ask(third)
        assert rig.settle("deferred", second.sha256).reason == "disk"
        free = os.statvfs(mount)
        assert free.f_bavail * free.f_frsize >= 2 * MIB - 256 * 1024, "the reserve is there for journal and spool"
        assert rig.answer() == second.sha256
        assert rig.schedule.failures == 0
        rig.stop()
    finally:
        subprocess.run(["umount", "-l", mount], check=False)


def fill(path):
    with path.open("wb", buffering=0) as stream:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                continue
