"""Tells stories in a process of its own, under ``strace``: ``python -m powercut.record WORLD FOLDER MS NAME...``."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from powercut.device import Clock
from powercut.disk import Disk, Op
from powercut.stories import STORIES, Story, make_device, tell
from powercut.tracing import mark, record
from powercut.world import World


@dataclass(frozen=True)
class Recording:
    """What one story did to its disk.

    Attributes:
        before: the disk when it began, all of it durable.
        ops: what was done to it, with the marks of the agent.
    """

    before: Disk
    ops: list[Op]


def record_stories(
    world: World, scratch: Path, start_ms: int, stories: Sequence[Story] = STORIES
) -> dict[str, Recording]:
    """Tell the stories and return what each did, by name."""
    path, root = scratch / "world", scratch / "devices"
    path.write_bytes(pickle.dumps(world))
    root.mkdir()
    command = [sys.executable, "-m", "powercut.record", str(path), str(root), str(start_ms), *(s.name for s in stories)]
    disk, ops = record(
        command, root, scratch, {"PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path])}
    )
    found = {}
    for number, story in enumerate(stories):
        begin, end = (next(i for i, op in enumerate(ops) if op.text == text) for text in _edges(story))
        before = disk.copy()
        for op in ops[:begin]:
            before.apply(op)
        found[story.name] = Recording(*before.below(_folder(number), ops[begin:end]))
    return found


def _edges(story: Story) -> Sequence[str]:
    return f"story {story.name}", f"end of {story.name}"


def _folder(number: int) -> str:
    return f"device-{number}"


def main() -> None:
    """See the module's docstring."""
    world: World = pickle.loads(Path(sys.argv[1]).read_bytes())
    told = [story for story in STORIES if story.name in sys.argv[4:]]
    for number, story in enumerate(told):
        folder, clock = Path(sys.argv[2]) / _folder(number), Clock(int(sys.argv[3]))
        make_device(story, world, folder, clock)
        mark(_edges(story)[0])
        tell(story, world, folder, clock)
        mark(_edges(story)[1])


if __name__ == "__main__":
    main()
