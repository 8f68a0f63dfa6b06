"""What on this device speaks against an update now: windows, an application's lock, battery, network, memory.

Reads a few small files at each look and remembers nothing. Says only *whether*: what follows, and when it is asked
again, is decided by ``agent.core.admission``. Disk space is the store's to judge. The byte budget
is the download's, and asked here as well: what is put off for it is then looked at without a word to the server.

* A **window** governs the activation; downloads go on outside it, so that the window is not spent on them.
* The **lock** (``agent.lock``) governs the activation. It holds back what has not
  begun; the kernel lets it go when its holder dies.
* The **battery** governs both, **metered** networks govern downloads, **memory** governs trial and activation.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

from agent.core.state import Admittance
from agent.core.windows import Window, WindowRefused, next_opening_ms, parse_window
from agent.lock import is_held, open_lock
from agent.room import memory_available_bytes
from bundles.errors import TryAgain

Metered = Literal["no", "yes", "auto"]
WAIT_MS = "wait_ms"
"""Key in an error's details: how long until the condition is known to pass."""
MODEL_FACTOR = 2
"""Memory a model asks for, in sizes of its file: the weights once, and once more while the runtime packs them into its
own layout. Our choice; the trial in a child process is the real test, and this keeps it from ending in an OOM kill."""
WORKER_BYTES = 48 * 1024 * 1024
"""And this for the process around it: a worker with runtime and numpy takes 40 to 45 MiB of its own."""
NMCLI_TIMEOUT_S = 5.0
_MAINS = ("Mains", "USB", "Wireless")


class Admission(Protocol):
    """Says what speaks against a stage."""

    def check(self, stage: Admittance, bytes_needed: int) -> None:
        """Return where nothing speaks against ``stage``.

        Args:
            stage: ``download`` or ``activate``.
            bytes_needed: to fetch; or of the model file to load.

        Raises:
            TryAgain: a ``CONDITION_*`` code; ``details[WAIT_MS]`` where it is known when it passes.
        """
        ...

    def check_memory(self, model_bytes: int) -> None:
        """Return where a model file of this size can be loaded beside what runs; 0 = it needs no more than there is.

        Raises:
            TryAgain: ``CONDITION_MEMORY``.
        """
        ...


class NoConditions:
    """Puts nothing off: the conditions of a simulated device."""

    def check(self, stage: Admittance, bytes_needed: int) -> None:
        """Do nothing."""

    def check_memory(self, model_bytes: int) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Places:
    """Where facts about this machine are read; a test names its own.

    Attributes:
        supplies: folder of power supplies (Linux, ``sysfs-class-power``).
        meminfo: in the form of ``proc_meminfo(5)``.
        routes: in the form of ``/proc/net/route``; its line with destination 0 names the device that carries traffic.
        locks: in the form of ``proc_locks(5)``: who holds the update lock.
        processes: folder with a folder a process, for their names.
        network_manager: returns what ``nmcli`` says, one ``DEVICE:METERED`` a line; raises OSError where it is not.
    """

    supplies: Path = Path("/sys/class/power_supply")
    meminfo: Path = Path("/proc/meminfo")
    routes: Path = Path("/proc/net/route")
    locks: Path = Path("/proc/locks")
    processes: Path = Path("/proc")
    network_manager: Callable[[], str] = field(default=lambda: _ask_network_manager())


@dataclass(frozen=True)
class Maintenance:
    """One maintenance window as its owner writes it.

    Attributes:
        start: five fields of cron, in local time.
        hours: how long it stays open.
        tz: name of the time zone, such as ``Europe/Berlin``.
    """

    start: str
    hours: float
    tz: str = "UTC"

    def window(self) -> Window:
        """Return the window.

        Raises:
            WindowRefused: ``WINDOW_INVALID``; also where this machine does not know the time zone.
        """
        try:
            zone = ZoneInfo(self.tz) if self.tz != "UTC" else UTC
        except (KeyError, ValueError, OSError) as error:
            raise WindowRefused(
                f"The time zone {self.tz!r} is not known here.",
                remedy="Write a name such as Europe/Berlin; the system's tzdata package brings them.",
            ) from error

        def offset(utc_ms: int) -> int:
            ahead = datetime.fromtimestamp(utc_ms / 1000, zone).utcoffset()
            return round(ahead.total_seconds() * 1000) if ahead else 0

        return parse_window(self.start, self.hours, offset)


@dataclass(frozen=True)
class Limits:
    """What the owner set.

    Attributes:
        windows: maintenance windows; none = always open.
        min_battery_percent: 0 = whatever the battery says.
        metered: whether the network is: ``auto`` asks NetworkManager, and takes no answer for no.
        metered_download: whether to fetch over a metered network all the same.
    """

    windows: Sequence[Window] = ()
    min_battery_percent: int = 0
    metered: Metered = "auto"
    metered_download: bool = False


class Conditions:
    """The conditions of one real device.

    Args:
        limits: what its owner set.
        lock: the update lock's file; made where it is missing, so that applications find it.
        wall_ms: the system's clock: windows are about its time.
        places: where facts are read.
        budget: raises ``TryAgain`` ``CONDITION_BUDGET`` where today's bytes are used up.

    Raises:
        OSError: the lock's file cannot be made.
    """

    def __init__(
        self,
        limits: Limits,
        lock: Path,
        wall_ms: Callable[[], int],
        places: Places = Places(),
        budget: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits, self._lock, self._wall_ms, self._places, self._budget = limits, lock, wall_ms, places, budget
        os.close(open_lock(lock))

    def check(self, stage: Admittance, bytes_needed: int) -> None:
        """See ``Admission``."""
        for error in self._against(stage, bytes_needed):
            raise error

    def check_memory(self, model_bytes: int) -> None:
        """See ``Admission``."""
        if not model_bytes:
            return  # it takes the place of one as large
        available = memory_available_bytes(self._places.meminfo)
        needed = MODEL_FACTOR * model_bytes + WORKER_BYTES
        if available is not None and available < needed:
            raise TryAgain(
                f"{available // 2**20} MiB of memory are available; the model asks for {needed // 2**20} MiB.",
                code="CONDITION_MEMORY",
                remedy="It is tried again when there is more.",
            )

    def now(self) -> list[dict[str, object]]:
        """Return what speaks against a stage now, for the status: ``code``, ``detail``, ``stage``, ``wait_ms``."""
        stages: tuple[Admittance, ...] = ("download", "activate")
        return [
            {"stage": stage, "code": e.code, "detail": e.sentence, WAIT_MS: e.details.get(WAIT_MS, 0)}
            for stage in stages
            for e in self._against(stage, 0)
        ]

    def _against(self, stage: Admittance, bytes_needed: int) -> Iterator[TryAgain]:
        if stage == "activate":
            yield from self._window()
            yield from self._held()
        yield from self._battery()
        if stage == "download":
            yield from self._network()
            try:
                self._budget()
            except TryAgain as error:
                yield error
        elif bytes_needed:
            try:
                self.check_memory(bytes_needed)
            except TryAgain as error:
                yield error

    def _window(self) -> Iterator[TryAgain]:
        now_ms = self._wall_ms()
        opening = next_opening_ms(self._limits.windows, now_ms) if self._limits.windows else now_ms
        if opening == now_ms:
            return
        when = "never" if opening is None else f"{datetime.fromtimestamp(opening / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        yield TryAgain(
            f"The maintenance window is closed; it opens next: {when}.",
            code="CONDITION_WINDOW",
            remedy="Wait, or change maintenance in the agent's settings.",
            details={WAIT_MS: 0 if opening is None else opening - now_ms},
        )

    def _held(self) -> Iterator[TryAgain]:
        if is_held(self._lock):
            yield TryAgain(
                f"The update lock is held by {self._holder()}.",
                code="CONDITION_LOCK",
                remedy="It is tried again when the lock is let go.",
            )

    def _holder(self) -> str:
        """Name who holds the lock, as far as the kernel tells."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            inode = str(self._lock.stat().st_ino)
            for line in self._places.locks.read_text("ascii").splitlines():
                words = line.split()
                if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
                    name = (self._places.processes / words[4] / "comm").read_text("utf-8").strip()
                    return f"{name} (process {words[4]})"
        return "an application"

    def _battery(self) -> Iterator[TryAgain]:
        least = self._limits.min_battery_percent
        if not least:
            return
        percent = battery_percent(self._places.supplies)
        if percent is not None and percent < least:
            yield TryAgain(
                f"The battery is at {percent} %, and {least} % are asked for.",
                code="CONDITION_BATTERY",
                remedy="Charge it; while it is charged, updates go on.",
            )

    def _network(self) -> Iterator[TryAgain]:
        if self._limits.metered_download or self._limits.metered == "no":
            return
        if self._limits.metered == "yes" or self._is_metered():
            yield TryAgain(
                "The network is metered.",
                code="CONDITION_METERED",
                remedy="Use another network, or set metered_download = true.",
            )

    def _is_metered(self) -> bool:
        try:
            answers = dict(line.rpartition(":")[::2] for line in self._places.network_manager().splitlines())
        except (OSError, subprocess.SubprocessError):
            return False
        carrying = _default_devices(self._places.routes)
        return any(answer.startswith("yes") for device, answer in answers.items() if device in carrying)


def battery_percent(supplies: Path) -> int | None:
    """Return the charge of the fullest battery; None where there is none, or where the device is on mains."""
    found: list[int] = []
    try:
        entries = sorted(supplies.iterdir())
    except OSError:
        return None
    for entry in entries:
        kind = _read(entry / "type")
        if kind in _MAINS and _read(entry / "online") == "1":
            return None
        # "Device" is the battery of a mouse or a headset.
        if kind == "Battery" and _read(entry / "scope") != "Device" and _read(entry / "present") != "0":
            if _read(entry / "status") in ("Charging", "Full"):
                return None
            with contextlib.suppress(ValueError):
                found.append(int(_read(entry / "capacity")))
    return max(found, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _default_devices(routes: Path) -> set[str]:
    lines = [line.split() for line in _read(routes).splitlines()[1:]]
    return {words[0] for words in lines if len(words) > 1 and words[1] == "00000000"}


def _ask_network_manager() -> str:
    program = shutil.which("nmcli")
    if program is None:
        raise FileNotFoundError("nmcli")
    asked = [program, "-t", "-f", "GENERAL.DEVICE,GENERAL.METERED", "device", "show"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=NMCLI_TIMEOUT_S, check=True).stdout
    values = [line.partition(":")[2] for line in told.splitlines() if line.startswith("GENERAL.")]
    return "\n".join(f"{device}:{metered}" for device, metered in zip(values[::2], values[1::2], strict=False))
