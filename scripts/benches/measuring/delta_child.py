"""Makes or applies one delta in a process of its own, and says what that cost: run as a program by ``delta``.

``python delta_child.py PEER make|apply OLD NEW DELTA``; PEER is ``own``, ``zstd`` or ``bsdiff4``. Applying writes
``DELTA`` + ``.out``, which the caller compares. One JSON object on stdout: ``{"wall_s", "cpu_s", "work_mib",
"peak_mib"}``: wall and CPU time of the work without the program's start; the most resident memory that the process had
(for ``zstd``, that program's process), and how much of it came with the work.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PIECE_BYTES = 64 * 1024


def main(peer: str, what: str, *names: str) -> None:
    """Do the work; print what it cost."""
    old, new, delta = map(Path, names)
    work = WORKS[peer, what](old, new, delta)
    wall, cpu, before_mib = time.perf_counter(), _cpu_s(), 0.0 if peer == "zstd" else _status_mib("VmRSS")
    work()
    cost = {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu_s() - cpu}
    peak_mib = _child_peak_mib() if peer == "zstd" else _status_mib("VmHWM")
    print(json.dumps({**cost, "work_mib": peak_mib - before_mib, "peak_mib": peak_mib}))


def _cpu_s() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _status_mib(field: str) -> float:
    """Return a size that the kernel keeps of this process.

    Not ``ru_maxrss``, which a program inherits from the process that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def _child_peak_mib() -> float:
    """Return the peak of the only child; this small process itself is the least it can say."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _own_make(old: Path, new: Path, delta: Path) -> Callable[[], None]:
    from bundles.delta.files import opened
    from bundles.delta.make import make_delta

    def work() -> None:
        with opened(old) as base, opened(new) as target, delta.open("wb") as sink:
            made = make_delta(base, target, sink, max_bytes=2 * len(target))
        assert made is not None

    return work


def _own_apply(old: Path, new: Path, delta: Path) -> Callable[[], None]:
    from bundles.delta.apply import apply_delta

    with new.open("rb") as stream:
        sha256, length = hashlib.file_digest(stream, "sha256").hexdigest(), new.stat().st_size

    def pieces() -> Iterator[bytes]:
        with delta.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece

    def work() -> None:
        with old.open("rb") as base, Path(f"{delta}.out").open("wb") as out:
            apply_delta(pieces(), base, out.write, sha256=sha256, length=length, max_bytes=2 * length)

    return work


def _zstd_make(old: Path, new: Path, delta: Path) -> Callable[[], None]:
    return _zstd("-19", f"--patch-from={old}", str(new), "-o", str(delta))


def _zstd_apply(old: Path, new: Path, delta: Path) -> Callable[[], None]:
    return _zstd("-d", f"--patch-from={old}", str(delta), "-o", f"{delta}.out")


def _zstd(*arguments: str) -> Callable[[], None]:
    command = ["zstd", "-qq", "-f", "--single-thread", "--long=31", *arguments]

    def work() -> None:
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)

    return work


def _bsdiff_make(old: Path, new: Path, delta: Path) -> Callable[[], None]:
    bsdiff4 = importlib.import_module("bsdiff4")  # has no types, and need not be installed

    return lambda: bsdiff4.file_diff(str(old), str(new), str(delta))


def _bsdiff_apply(old: Path, new: Path, delta: Path) -> Callable[[], None]:
    bsdiff4 = importlib.import_module("bsdiff4")

    return lambda: bsdiff4.file_patch(str(old), f"{delta}.out", str(delta))


WORKS = {
    ("own", "make"): _own_make,
    ("own", "apply"): _own_apply,
    ("zstd", "make"): _zstd_make,
    ("zstd", "apply"): _zstd_apply,
    ("bsdiff4", "make"): _bsdiff_make,
    ("bsdiff4", "apply"): _bsdiff_apply,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
