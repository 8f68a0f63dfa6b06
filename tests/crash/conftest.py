"""What these tests are made of is a package of its own beside them; a traced process imports it too."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from powercut.world import World, make_world

IN_MEMORY = Path("/dev/shm")
"""Whether a disk's content lasts is up to the model, so the files themselves need no disk."""


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder that is quick to write to."""
    place = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="wg-crash-", dir=place))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def start_ms() -> int:
    """When the stories begin."""
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def world() -> World:
    """Every release and document that the stories need."""
    return make_world()
