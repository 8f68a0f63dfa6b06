"""What trust costs a device: bytes of a poll, CPU of a refresh, hashing, the assignment, the memory of TUF's client.

Measured against a running server whose repository lists 1,000 bundles in 10 teams' roles. The peer of a refresh is
TUF's own client alone, over the same connection to the same server, without floors, flushed files or our checks.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater

from agent.store.blobs import hash_of
from agent.store.files import LocalFileSystem
from benches.measuring.figure import Figure, Plan
from benches.measuring.repository import BUNDLES_A_TEAM, DEVICE, MODEL_KEY, TEAMS, ServedRepository, served_repository
from benches.measuring.timing import call_s, interleave, medians
from bundles.trust.device.client import TrustStore
from bundles.trust.director import verify_desired
from bundles.trust.fetch import BASE, TufFetcher

NAME = "trust"
POLL_BAR_BYTES, ASSIGNMENT_BAR_BYTES = 800, 700
VERIFY_BAR_RATIO = 0.8
FILE_MB = 64
LISTED = f"{TEAMS * BUNDLES_A_TEAM} bundles in {TEAMS} roles"
_IMPORT = """
import json, time
import cryptography.x509, cryptography.hazmat.primitives.serialization, httpx, msgspec
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
before, started = resident(), time.perf_counter()
import MODULE
took_s = time.perf_counter() - started
print(json.dumps([took_s, (resident() - before) / 2**20]))
"""
"""What trust needs, beyond what the agent has loaded for its identity and its door to the server."""


def run(plan: Plan) -> Iterator[Figure]:
    """Measure.

    Raises:
        AskPerson: the control plane could not be started.
    """
    yield from _imports(plan.repeats(11, 3))
    yield _verify(plan.repeats(9, 3))
    with served_repository() as served, tempfile.TemporaryDirectory(prefix="wg-bench-") as folder:
        yield from _bytes(served, Path(folder) / "polling", plan.repeats(9, 3))
        yield from _refresh(served, Path(folder), plan.repeats(15, 3))
        yield from _assignment(served, plan.repeats(7, 3), plan.repeats(200, 40))


def _imports(times: int) -> Iterator[Figure]:
    sides = {"own": "bundles.trust.device.client", "tuf": "tuf.ngclient"}
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(times):
        for side, module in sides.items():
            command = [sys.executable, "-c", _IMPORT.replace("MODULE", module)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
            took_s, mib = json.loads(done.stdout)
            taken[side].append((took_s * 1e3, mib))
    own, tuf = (tuple(map(statistics.median, zip(*taken[side], strict=True))) for side in sides)
    note = "in a fresh process that has cryptography, httpx and msgspec already"
    yield Figure(NAME, "tuf_import_rss_mib", tuf[1], "MiB", n=times, note=f"tuf.ngclient, {note}")
    yield Figure(NAME, "trust_import_rss_mib", own[1], "MiB", "tuf.ngclient alone", tuf[1], n=times, note=note)
    yield Figure(NAME, "trust_import_ms", own[0], "ms", "tuf.ngclient alone", tuf[0], n=times, note=note)


def _verify(rounds: int) -> Figure:
    with tempfile.TemporaryDirectory(prefix="wg-bench-") as folder:
        path = Path(folder) / "blob"
        path.write_bytes(b"\x5a" * (FILE_MB * 1_000_000))
        files = LocalFileSystem(Path(folder))

        def bare() -> str:
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()

        assert hash_of(files, "blob") == bare()
        found = medians(
            {"own": lambda: call_s(lambda: hash_of(files, "blob"), 1), "peer": lambda: call_s(bare, 1)}, rounds
        )
    return Figure(
        NAME,
        "verify_mb_per_s",
        FILE_MB / found["own"],
        "MB/s",
        "hashlib.file_digest",
        FILE_MB / found["peer"],
        VERIFY_BAR_RATIO,
        is_bar_of_ratio=True,
        is_more_better=True,
        n=rounds,
        note=f"a file of {FILE_MB} MB in the page cache, as the agent hashes a blob it holds",
    )


def _bytes(served: ServedRepository, folder: Path, times: int) -> Iterator[Figure]:
    """Count what a device sends and receives when there is nothing new."""

    def counted(call: Callable[[], object]) -> list[tuple[int, int]]:
        found = []
        for _ in range(times):
            served.passed.reset()
            call()
            found.append((served.passed.up, served.passed.down))
        return found

    def poll() -> None:
        assert served.door.desired(served.etag) is None, "there must be nothing new"

    poll()
    polls = counted(poll)
    with TrustStore(folder, served.root, device=DEVICE, fetch=served.door.metadata) as store:
        store.refresh(_now_ms())
        refreshes = counted(lambda: store.refresh(_now_ms()))
    for metric, found, bar, note in (
        ("poll_bytes_no_change", polls, POLL_BAR_BYTES, "desired asked for by its ETag, answered 304"),
        (
            "refresh_bytes_no_change",
            refreshes,
            None,
            "no newer root, the same timestamp; when desired hints at one, else every six hours",
        ),
    ):
        up, down = (int(statistics.median(side)) for side in zip(*found, strict=True))
        said = f"{up} up, {down} down, inside TLS; {note}"
        yield Figure(NAME, metric, up + down, "bytes", bar=bar, n=times, note=said)


def _refresh(served: ServedRepository, folder: Path, rounds: int) -> Iterator[Figure]:
    numbers = count()
    fetch = served.door.metadata
    warm_store = TrustStore(folder / "warm", served.root, device=DEVICE, fetch=fetch)
    warm_tuf = folder / "warm-tuf"
    warm_tuf.mkdir()

    def bare(cache: Path) -> Updater:
        updater = Updater(str(cache), BASE, fetcher=TufFetcher(fetch), bootstrap=served.root)
        updater.refresh()
        return updater

    def own_cold() -> float:
        with TrustStore(folder / f"own-{next(numbers)}", served.root, device=DEVICE, fetch=fetch) as store:
            return _cpu_s(lambda: store.refresh(_now_ms()))

    def tuf_cold() -> float:
        cache = folder / f"tuf-{next(numbers)}"
        cache.mkdir()
        return _cpu_s(lambda: bare(cache))

    def own_looked_up() -> float:
        with TrustStore(folder / f"own-{next(numbers)}", served.root, device=DEVICE, fetch=fetch) as store:
            store.refresh(_now_ms())
            return _cpu_s(lambda: store.authorize(MODEL_KEY, served.newest, hardware="cam-a", now_ms=_now_ms()))

    def tuf_looked_up() -> float:
        cache = folder / f"tuf-{next(numbers)}"
        cache.mkdir()
        updater = bare(cache)
        return _cpu_s(lambda: updater.get_targetinfo(served.newest.target))

    with warm_store:
        warm_store.refresh(_now_ms())
        bare(warm_tuf)
        taken = interleave(
            {
                "own cold": own_cold,
                "tuf cold": tuf_cold,
                "own warm": lambda: _cpu_s(lambda: warm_store.refresh(_now_ms())),
                "tuf warm": lambda: _cpu_s(lambda: bare(warm_tuf)),
                "own look-up": own_looked_up,
                "tuf look-up": tuf_looked_up,
            },
            rounds,
        )
    found = {side: statistics.median(values) * 1e3 for side, values in taken.items()}
    for metric, side, note in (
        ("refresh_cpu_ms_cold", "cold", "a new device: root, timestamp, snapshot, targets"),
        ("refresh_cpu_ms_warm", "warm", "nothing new"),
        ("authorize_cpu_ms_cold", "look-up", f"a team's role of {BUNDLES_A_TEAM} bundles fetched, verified, searched"),
    ):
        peer = "TUF's client alone"
        said = f"{LISTED}; CPU of the device's process; {note}"
        yield Figure(NAME, metric, found[f"own {side}"], "ms", peer, found[f"tuf {side}"], n=rounds, note=said)


def _assignment(served: ServedRepository, rounds: int, calls: int) -> Iterator[Figure]:
    now_ms = _now_ms()
    data = served.assignment(now_ms)
    targets = _targets(served)
    note = "one model, the director's key is Ed25519"
    yield Figure(NAME, "assignment_bytes", len(data), "bytes", bar=ASSIGNMENT_BAR_BYTES, note=note)
    sign = served.director.sign
    public, signature = served.director.public_key, sign(data)
    found = medians(
        {
            "sign": lambda: call_s(lambda: served.assignment(now_ms), calls),
            "bare sign": lambda: call_s(lambda: sign(data), calls),
            "verify": lambda: call_s(lambda: verify_desired(data, targets), calls),
            "bare verify": lambda: call_s(lambda: public.verify_signature(signature, data), calls),
        },
        rounds,
    )
    for what in ("sign", "verify"):
        own, peer = found[what] * 1e3, found[f"bare {what}"] * 1e3
        yield Figure(
            NAME, f"assignment_{what}_ms", own, "ms", f"the bare signature's {what}", peer, n=rounds, note=note
        )


def _targets(served: ServedRepository) -> Targets:
    newest = max(served.metadata.glob("*.targets.json"), key=lambda path: int(path.name.partition(".")[0]))
    return Metadata[Targets].from_file(str(newest)).signed


def _cpu_s(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def _now_ms() -> int:
    return int(time.time() * 1000)
