"""What room a device says it has: read from the kernel, or unknown, never invented."""

from __future__ import annotations

import shutil

import pytest

from agent.room import Room, memory_available_bytes, with_memory
from agent.store import LocalFileSystem, Store


def test_available_memory_is_the_kernels_estimate(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       2048 kB\nMemFree:        10 kB\nMemAvailable:   1024 kB\n")
    assert memory_available_bytes(meminfo) == 1024 * 1024


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemAvailable:\n", "MemAvailable: much kB\n"])
def test_what_the_kernel_does_not_say_is_unknown(tmp_path, text):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    assert memory_available_bytes(meminfo) is None
    assert memory_available_bytes(tmp_path / "missing") is None


def test_a_store_tells_what_is_free_and_what_it_keeps(tmp_path):
    store = Store(LocalFileSystem(tmp_path), reserve_bytes=12345)
    room = with_memory(store.room())
    assert room.disk_reserve_bytes == 12345
    assert 0 <= room.disk_free_bytes <= shutil.disk_usage(tmp_path).total
    assert room.memory_available_bytes > 0


def test_a_disk_that_does_not_answer_is_unknown(tmp_path):
    assert Store(LocalFileSystem(tmp_path / "gone")).room() == Room()
