"""Deltas over real HTTP: the server's own door and service, asked by the agent's own client."""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from agent.delta import Base, DeltaTry
from agent.https import DeviceDoor
from agent.runner.blobs import ServerBlobs, ServerSource
from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.wire.messages import Profile
from control_plane import metrics
from control_plane.api import problems
from control_plane.api.device import DeviceDoors, NonceHeader, device_router
from control_plane.db.engine import Database
from control_plane.db.tables import Device, Release
from control_plane.identity.authority import Authority
from control_plane.identity.nonce import Nonces
from control_plane.services.deltas import DeltaLimits, Deltas
from control_plane.storage import Blobs

RNG = np.random.default_rng(3)
WEIGHTS = np.round(RNG.normal(0, 25, 300_000)).clip(-127, 127).astype(np.int8)
OLD = WEIGHTS.tobytes()
NEW = (WEIGHTS + (RNG.random(len(WEIGHTS)) < 0.05)).astype(np.int8).tobytes()
OTHER = RNG.bytes(300_000)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Served:
    """The server's doors on a real port, with releases put straight into the registry."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(f"sqlite:///{folder / 'wavegate.db'}")
        self.db.upgrade()
        self.blobs = Blobs.at(folder / "blobs")
        self.deltas = Deltas(self.db, self.blobs, scratch=folder)
        self.key = ec.generate_private_key(ec.SECP256R1())
        nonces = Nonces(b"n" * 32)
        doors = DeviceDoors(
            db=self.db,
            blobs=self.blobs,
            metadata_dir=folder,
            authority=Authority.open_or_create(folder / "keys", "device-ca", now_ms()),
            server_ca_pem="",
            nonces=nonces,
            sign=msgspec.json.encode,
            ingest=lambda *_: pytest.fail("nothing is reported here"),
            committed=lambda _: None,
            profile=Profile(),
            broker=lambda: None,
            now_ms=now_ms,
            deltas=self.deltas,
        )
        app = FastAPI()
        problems.install(app)
        app.include_router(device_router(doors))
        app.add_middleware(NonceHeader, nonce=lambda: nonces.current(now_ms()))
        pem = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with self.db.write() as session:
            session.add(Device(id="cam-1", public_key_pem=pem.decode(), enrolled_ms=now_ms()))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.client = httpx.Client(base_url=self.url, timeout=15.0, trust_env=False)
        self.door = DeviceDoor(self.client, "cam-1", lambda: self.key)

    def release(self, counter: int, content: bytes, model: str = "digits") -> str:
        self.blobs.put(sha256_hex(content), content)
        manifest = Manifest(
            team="vision",
            model=model,
            version=f"{counter}.0.0",
            release_counter=counter,
            channel="prod",
            created_ms=now_ms(),
            files=[BundleFile("model/m.onnx", sha256_hex(content), len(content), "model")],
            variants=[Variant("a", "onnxruntime", "model/m.onnx")],
        )
        data = encode_manifest(manifest)
        row = Release(
            sha256=sha256_hex(data),
            team="vision",
            model=model,
            version=manifest.version,
            release_counter=counter,
            channel="prod",
            length=len(data),
            manifest_json=data.decode(),
            publisher="ada",
            published_ms=now_ms(),
        )
        with self.db.write() as session:
            session.add(row)
        return sha256_hex(content)

    def get(self, old: str, new: str, offset: int = 0) -> tuple[int, bytes]:
        with self.door.blob(f"/v1/deltas/{old}/{new}", offset, f"{old}-{new}") as answer:
            return answer.status, b"".join(answer.chunks)

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(10)
        self.listener.close()
        self.deltas.close()
        self.db.close()


@pytest.fixture
def served(tmp_path):
    served = Served(tmp_path)
    yield served
    served.stop()


@pytest.fixture
def store(tmp_path):
    (tmp_path / "device").mkdir()
    store = Store(LocalFileSystem(tmp_path / "device"))
    store.open()
    part = store.blob(sha256_hex(OLD), len(OLD))
    part.append(OLD)
    part.commit()
    return store


def fetch(served, store, content=NEW):
    told: list[Exception] = []
    base = Base(sha256_hex(OLD), lambda: store.open_blob(sha256_hex(OLD)))
    blobs = ServerBlobs(ServerSource(served.door), random.Random(1))
    brought = blobs(store, sha256_hex(content), len(content), lambda: False, DeltaTry(base, told.append))
    assert store.read_blob(sha256_hex(content), len(content)) == content
    return brought, told


def test_a_device_gets_the_new_model_as_a_delta(served, store):
    served.release(1, OLD), served.release(2, NEW)
    brought, told = fetch(served, store)
    assert (brought.by_delta, told) == (True, [])
    assert brought.bytes_received < 0.1 * len(NEW)


def test_without_a_signature_there_is_no_delta(served):
    old, new = served.release(1, OLD), served.release(2, NEW)
    answer = served.client.get(f"/v1/deltas/{old}/{new}")
    assert (answer.status_code, answer.json()["code"]) == (401, "PROOF_MISSING")
    assert not served.deltas._running, "and nothing is made for a stranger"


@pytest.mark.parametrize("content", [OTHER, OLD[:1000]], ids=["not worth it", "too small"])
def test_what_is_not_worth_it_is_not_offered_and_fetched_whole(served, store, content):
    old, new = served.release(1, OLD), served.release(2, content)
    status, body = served.get(old, new)
    assert (status, msgspec.json.decode(body)["code"]) == (404, "DELTA_NOT_OFFERED")
    brought, told = fetch(served, store, content)
    assert (brought.by_delta, told) == (False, [])


def test_only_files_of_one_model_are_compared(served):
    old = served.release(1, OLD)
    other = served.release(1, NEW, model="letters")
    for pair in ((old, other), (old, "0" * 64), (old, old), (old, "..%2f..%2fetc")):
        assert served.get(*pair)[0] == 404
    new = served.release(2, NEW)
    assert (new, served.get(old, new)[0]) == (other, 200), "the same file, once a release of this model holds it too"


def test_the_rest_of_a_delta_is_served_from_where_it_broke(served):
    old, new = served.release(1, OLD), served.release(2, NEW)
    _, whole = served.get(old, new)
    assert served.get(old, new, 1000) == (206, whole[1000:])
    assert served.get(old, new, len(whole))[0] == 416


def test_many_who_ask_at_once_get_one_piece_of_work(served, monkeypatch):
    made: list[str] = []
    old, new = served.release(1, OLD), served.release(2, NEW)
    make, gate = served.deltas._make, threading.Event()

    def counted(*pair: str) -> int:
        made.append(pair[1])
        assert gate.wait(30)
        return make(*pair)

    monkeypatch.setattr(served.deltas, "_make", counted)
    answers = [served.deltas.ask(old, new) for _ in range(5)]
    # The event loop is free meanwhile: another door answers while the work stands still.
    assert served.client.get("/v1/time").status_code == 200
    gate.set()
    assert len({answer.result(30) for answer in answers}) == 1
    assert served.deltas.ask(old, new).result(0) > 0, "kept"
    assert made == [new]


def test_a_delta_that_takes_long_is_promised_and_a_long_line_is_closed(served, monkeypatch):
    monkeypatch.setattr("control_plane.api.deltas.WAIT_S", 0.05)
    gate = threading.Event()
    monkeypatch.setattr(served.deltas, "_make", lambda *_: gate.wait(30) and 0)
    served.deltas._limits = DeltaLimits(waiting=1)
    old, new, more = served.release(1, OLD), served.release(2, NEW), served.release(3, OTHER)
    status, body = served.get(old, new)
    assert (status, msgspec.json.decode(body)["code"]) == (503, "DELTA_BUILDING")
    with pytest.raises(TryAgain) as caught:
        served.deltas.ask(old, more)
    assert caught.value.code == "DELTA_BUSY"
    gate.set()


def test_a_disk_that_fails_is_not_remembered_as_not_worth_it(served, monkeypatch):
    old, new = served.release(1, OLD), served.release(2, NEW)
    with monkeypatch.context() as patched:
        patched.setattr(served.deltas, "_scratch", Path("/nowhere"))
        assert served.deltas.ask(old, new).result(30) == 0
    assert served.deltas.ask(old, new).result(30) > 0


def test_what_deltas_do_is_counted_and_the_rest_of_one_is_not_counted_again(served):
    names = ("deltas_built_total", "delta_cache_hits_total", "deltas_served_total", "delta_bytes_saved_total")

    def counts() -> list[float]:
        labels = {"deltas_built_total": {"outcome": "made"}}
        return [metrics.REGISTRY.get_sample_value(f"wavegate_{name}", labels.get(name)) or 0.0 for name in names]

    before = counts()
    old, new = served.release(1, OLD), served.release(2, NEW)
    _, delta = served.get(old, new)
    assert served.get(old, new) == (200, delta)
    assert served.get(old, new, 10)[0] == 206
    saved = 2 * (len(NEW) - len(delta))
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 2, 2, saved]


def test_old_deltas_make_room(served):
    kept = served.blobs.derived("deltas", 250)
    for name in ("a", "b", "c"):
        kept.put(name, name.encode() * 100)
        time.sleep(0.01)  # the store orders entries by their time
    assert [kept.length(name) for name in ("a", "b", "c")] == [None, 100, 100]
    assert b"".join(kept.open("c", 10, 5)) == b"ccccc"
