"""What a download costs a device: CPU a megabyte and time, beside curl, from the same TLS server, file and loopback.

The agent's side is everything from the request to the checked and durable blob: TLS, HTTP, pace, sha256, the file, its
fsync. The peer is ``curl`` writing the same file, plus ``sha256`` over it by hashlib, which the agent does as it
streams. Each side runs in a process of its own, whose CPU is counted from before the request to after the last byte;
what it takes to start a Python or a curl is measured beside it and left out. The limits of the machine, TLS alone and
sha256 alone, are taken in the same run.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benches.measuring.figure import Figure, Plan
from benches.measuring.timing import interleave
from bundles.digest import sha256_hex
from bundles.errors import AskPerson
from control_plane.identity.authority import Authority

NAME = "download"
FILE_MB = 64
BAR_RATIO = 1.5
_SERVER = """
import os, socket, ssl, sys, threading
cert, key, path = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
data = memoryview(open(path, "rb").read())
listener = socket.create_server(("127.0.0.1", 0))
def serve(sock):
    with context.wrap_socket(sock, server_side=True) as tls:
        while True:
            asked = b""
            while b"\\r\\n\\r\\n" not in asked:
                piece = tls.recv(65536)
                if not piece:
                    return
                asked += piece
            tls.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(data))
            for at in range(0, len(data), 1 << 18):
                tls.sendall(data[at : at + (1 << 18)])
def guarded(sock):
    try:
        serve(sock)
    except OSError:
        pass
print(listener.getsockname()[1], flush=True)
while True:
    sock, _ = listener.accept()
    threading.Thread(target=guarded, args=(sock,), daemon=True).start()
"""
_AGENT = """
import json, ssl, sys, time
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from agent.download import fetch_blob
from agent.https import DeviceDoor, open_client
from agent.runner.blobs import ServerSource
from agent.store import LocalFileSystem, Store
url, ca, folder, sha256, length = sys.argv[1:]
store = Store(LocalFileSystem(Path(folder)), reserve_bytes=0)
store.open()
key = ec.generate_private_key(ec.SECP256R1())
client = open_client(url, ssl.create_default_context(cafile=ca))
source = ServerSource(DeviceDoor(client, "bench-1", lambda: key))
part = store.blob(sha256, int(length))
cpu, wall = time.process_time(), time.perf_counter()
fetch_blob(source, "/v1/blobs/sha256/" + sha256, part, sleep=time.sleep, draw=lambda: 0.5)
print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]))
assert part.is_complete()
client.close()
"""
_TLS = """
import json, socket, ssl, sys, time
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
buffer = bytearray(1 << 18)
cpu, wall = time.process_time(), time.perf_counter()
sock = socket.create_connection(("127.0.0.1", port))
with context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
    tls.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    left = int(sys.argv[3])
    while left > 0:
        left -= tls.recv_into(buffer)
print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]))
"""
_HASH = """
import hashlib, json, sys, time
data = open(sys.argv[1], "rb")
cpu, wall = time.process_time(), time.perf_counter()
hashlib.file_digest(data, "sha256")
print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]))
"""


def run(plan: Plan) -> Iterator[Figure]:
    """Measure.

    Raises:
        AskPerson: there is no curl here.
    """
    curl = shutil.which("curl")
    if curl is None:
        raise AskPerson("curl was not found.", code="CURL_MISSING", remedy="Install it: apt-get install curl.")
    rounds = plan.repeats(7, 3)
    with tempfile.TemporaryDirectory(prefix="wg-bench-") as name:
        bench = _Bench(Path(name), curl)
        with bench.served():
            sides = {"agent": bench.agent, "curl": bench.curl, "tls": bench.tls, "hash": bench.hash}
            taken = interleave(sides, rounds)
    wall = {side: statistics.median(bench.walls[side]) for side in sides}
    cpu = {side: statistics.median(values) for side, values in taken.items()}
    of = f"a file of {FILE_MB} MB over TLS on loopback, one request"
    peer_cpu = (cpu["curl"] + cpu["hash"]) / FILE_MB * 1e3
    yield Figure(
        NAME, "limit_tls_cpu_ms_per_mb", cpu["tls"] / FILE_MB * 1e3, "ms", n=rounds, note="ssl.recv_into alone"
    )
    yield Figure(NAME, "limit_sha256_cpu_ms_per_mb", cpu["hash"] / FILE_MB * 1e3, "ms", n=rounds, note="hashlib alone")
    yield Figure(
        NAME,
        "cpu_ms_per_mb",
        cpu["agent"] / FILE_MB * 1e3,
        "ms",
        "curl + hashlib.sha256",
        peer_cpu,
        BAR_RATIO,
        is_bar_of_ratio=True,
        n=rounds,
        note=f"{of}; checked, written, fsynced",
    )
    yield Figure(
        NAME,
        "cpu_ms_per_mb_beside_curl_alone",
        cpu["agent"] / FILE_MB * 1e3,
        "ms",
        "curl",
        cpu["curl"] / FILE_MB * 1e3,
        n=rounds,
        note=f"{of}; curl checks nothing",
    )
    yield Figure(
        NAME,
        "wall_s",
        wall["agent"],
        "s",
        "curl, then hashlib.sha256",
        wall["curl"] + wall["hash"],
        n=rounds,
        note=of,
    )


class _Bench:
    """One server, one file, and the ways to fetch it; each returns CPU seconds and notes the time in ``walls``."""

    def __init__(self, folder: Path, curl: str) -> None:
        self._folder, self._curl = folder, curl
        self._data = folder / "blob"
        content = random.Random(1).randbytes(FILE_MB * 1_000_000)
        self._data.write_bytes(content)
        self._sha256, self._length = sha256_hex(content), len(content)
        self._number = 0
        now_ms = int(time.time() * 1000)
        authority = Authority.open_or_create(folder / "keys", "server-ca", now_ms)
        issued = authority.issue_server("bench", ["127.0.0.1"], now_ms)
        self._ca, self._pair = folder / "ca.pem", (folder / "cert.pem", folder / "key.pem")
        self._ca.write_bytes(authority.certificate_pem)
        self._pair[0].write_bytes(issued.certificate_pem)
        self._pair[1].write_bytes(issued.key_pem or b"")
        self._port = 0
        self.walls: dict[str, list[float]] = {"agent": [], "curl": [], "tls": [], "hash": []}

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Run the server meanwhile."""
        command = [sys.executable, "-c", _SERVER, *map(str, self._pair), str(self._data)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            self._port = int(process.stdout.readline())
            try:
                yield
            finally:
                process.kill()

    def agent(self) -> float:
        """The agent's own download into its store."""
        self._number += 1
        store = self._folder / f"store-{self._number}"
        store.mkdir()
        url = f"https://127.0.0.1:{self._port}"
        cpu_s = self._python("agent", _AGENT, url, self._ca, store, self._sha256, self._length)
        shutil.rmtree(store)
        return cpu_s

    def curl(self) -> float:
        """Curl into a file; its start is taken off."""
        out = self._folder / "curl.out"
        url = f"https://127.0.0.1:{self._port}/"
        bare = _children_cpu_s([self._curl, "--version"])[0]
        cpu_s, wall_s = _children_cpu_s([self._curl, "-sS", "--cacert", str(self._ca), "-o", str(out), url])
        assert out.stat().st_size == self._length
        self.walls["curl"].append(wall_s)
        return cpu_s - bare

    def tls(self) -> float:
        """TLS alone."""
        return self._python("tls", _TLS, self._port, self._ca, self._length)

    def hash(self) -> float:
        """sha256 alone."""
        return self._python("hash", _HASH, self._data)

    def _python(self, side: str, program: str, *arguments: object) -> float:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
        cpu_s, wall_s = json.loads(done.stdout)
        self.walls[side].append(wall_s)
        return float(cpu_s)


def _children_cpu_s(command: list[str]) -> tuple[float, float]:
    """Run a program; return its CPU and its time in seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, ended - started
