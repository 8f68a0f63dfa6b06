"""A device that has seen the repository's first state, again and again, and what must hold of its floors."""

from __future__ import annotations

import functools
import itertools
import shutil
import tempfile
from pathlib import Path

from bundles.trust.device.client import TrustStore
from bundles.trust.device.floors import Floors
from bundles.trust.durable import write_quickly
from bundles.trust.fetch import table_fetch
from bundles.trust.publishing.repository import OnlineRepository
from fuzzing.target import require
from fuzzing.targets.repository import DEVICE, NOW_MS, World, make_world, open_repository


class Home:
    """A folder with what every input starts from: the repository, and a device that has seen its first state."""

    def __init__(self) -> None:
        self._owned = tempfile.TemporaryDirectory(prefix="wg-fuzz-")
        self.folder = Path(self._owned.name)
        self.world: World = make_world(self.folder / "server")
        self._numbers = itertools.count()
        self._publisher: OnlineRepository | None = None
        with self.store(self.folder / "device", self.world.before) as store:
            store.refresh(NOW_MS)
        for leftover in (self.folder / "device").glob("scratch"):
            shutil.rmtree(leftover)

    def store(self, folder: Path, served: dict[str, bytes]) -> TrustStore:
        """Open the trust state of the device in ``folder``."""
        root = self.world.before["1.root.json"]
        return TrustStore(folder, root, device=DEVICE, fetch=table_fetch(served), write=write_quickly)

    def device(self) -> Path:
        """Return the folder of a new device that has seen the first state."""
        folder = self.folder / f"device-{next(self._numbers)}"
        shutil.copytree(self.folder / "device", folder)
        return folder

    def publisher(self) -> OnlineRepository:
        """Return a server that serves the second state."""
        if self._publisher is None:
            self._publisher = open_repository(self.folder / f"server-{next(self._numbers)}", self.world.now)
        return self._publisher

    def forget_publisher(self) -> None:
        """Have the next publication begin anew."""
        self._publisher = None


@functools.cache
def home() -> Home:
    """Return the one home of this process."""
    return Home()


def check_floors(before: Floors, after: Floors) -> None:
    """Check that nothing a device must never forget was forgotten, but under new keys."""
    require(after.clock_keys != before.clock_keys or after.clock_ms >= before.clock_ms, "the clock floor fell")
    require(all(after.releases.get(model, 0) >= floor for model, floor in before.releases.items()), "a floor fell")
    for role, floor in before.roles.items():
        now = after.roles[role]
        require(now.keys != floor.keys or now.version >= floor.version, f"the version floor of {role} fell")
    forgotten = set(before.denied) - set(after.denied)
    require(not forgotten or after.denied_keys != before.denied_keys, "a revocation was forgotten")
