"""The contract of ``wavegate-tuf-client``, the command the public TUF conformance suite drives."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

CLIENT = Path(sys.executable).with_name("wavegate-tuf-client")
CONTENTS = {"plain.txt": b"plain", "deep/er/file.bin": b"\x00\xff"}


class Repository:
    """A small repository behind a real HTTP server that notes what it is asked for."""

    def __init__(self) -> None:
        self.keys = {role: CryptoSigner.generate_ed25519() for role in ("root", "timestamp", "snapshot", "targets")}
        expires = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=30)
        root = Root(expires=expires, consistent_snapshot=True)
        for role, key in self.keys.items():
            root.add_key(key.public_key, role)
        targets = Targets(
            expires=expires, targets={name: TargetFile.from_data(name, data) for name, data in CONTENTS.items()}
        )
        self.root, self.roles = root, {"targets": targets}
        self.files, self.requests, self.expires = {}, [], expires
        self.sign("root", root, "metadata/1.root.json")
        self.publish(1)
        for name, data in CONTENTS.items():
            folder, slash, leaf = name.rpartition("/")
            self.files[f"targets/{folder}{slash}{targets.targets[name].hashes['sha256']}.{leaf}"] = data
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.removeprefix("/")
                repository.requests.append(path)
                body = repository.files.get(path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def sign(self, role, signed, path):
        metadata = Metadata(signed)
        metadata.sign(self.keys[role])
        self.files[path] = metadata.to_bytes()

    def publish(self, version):
        self.roles["targets"].version = version
        self.sign("targets", self.roles["targets"], f"metadata/{version}.targets.json")
        listing = Snapshot(version, expires=self.expires, meta={"targets.json": MetaFile(version)})
        self.sign("snapshot", listing, f"metadata/{version}.snapshot.json")
        stamp = Timestamp(version, expires=self.expires, snapshot_meta=MetaFile(version))
        self.sign("timestamp", stamp, "metadata/timestamp.json")

    def asked(self):
        found, self.requests[:] = list(self.requests), []
        return found

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def repository():
    repository = Repository()
    yield repository
    repository.close()


class Client:
    """The command, over folders of its own."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.metadata, self.targets, self.root = folder / "metadata", folder / "targets", folder / "root.json"
        self.url = repository.url
        self.metadata.mkdir()
        self.targets.mkdir()
        self.root.write_bytes(repository.files["metadata/1.root.json"])

    def run(self, *arguments) -> int:
        environment = {**os.environ, "http_proxy": "http://127.0.0.1:9"}  # a proxy of the environment is not used
        done = subprocess.run([CLIENT, *arguments], capture_output=True, text=True, timeout=60, env=environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    def init(self) -> int:
        return self.run("--metadata-dir", self.metadata, "init", self.root)

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self.url}/metadata/", "--metadata-dir", self.metadata, "refresh")

    def download(self, *names) -> int:
        return self.run(
            *("--metadata-url", f"{self.url}/metadata", "--metadata-dir", self.metadata),
            *(word for name in names for word in ("--target-name", name)),
            *("--target-dir", self.targets, "--target-base-url", f"{self.url}/targets/", "download"),
        )

    def names(self) -> list[str]:
        return sorted(path.name for path in self.metadata.glob("*.json"))

    def contents(self) -> list[bytes]:
        return [path.read_bytes() for path in self.targets.rglob("*") if path.is_file()]


@pytest.fixture
def client(repository, tmp_path):
    return Client(tmp_path, repository)


FRESH = ["metadata/2.root.json", "metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json"]
KNOWN = ["metadata/2.root.json", "metadata/timestamp.json"]


def served(repository, name):
    return next(path for path, data in repository.files.items() if path.startswith("targets/") and path.endswith(name))


def test_init_trusts_a_root_and_asks_nobody(client, repository):
    assert client.init() == 0
    assert client.names() == ["root.json"]
    assert repository.asked() == []


def test_refresh_asks_for_what_tufs_workflow_needs_and_nothing_else(client, repository):
    client.init()
    assert client.refresh() == 0
    assert repository.asked() == FRESH
    assert client.names() == ["root.json", "snapshot.json", "targets.json", "timestamp.json"]
    assert (client.metadata / "targets.json").read_bytes() == repository.files["metadata/1.targets.json"]
    assert client.refresh() == 0
    assert repository.asked() == KNOWN


def test_refresh_without_init_fails_and_asks_nobody(client, repository):
    assert client.refresh() == 1
    assert repository.asked() == []


def test_refused_refresh_exits_1_and_keeps_what_was_trusted(client, repository):
    client.init()
    client.refresh()
    before = (client.metadata / "timestamp.json").read_bytes()
    repository.keys["timestamp"] = CryptoSigner.generate_ed25519()
    repository.publish(2)
    assert client.refresh() == 1
    assert (client.metadata / "timestamp.json").read_bytes() == before


def test_newer_root_is_followed_and_kept_under_its_plain_name(client, repository):
    client.init()
    repository.root.version = 2
    repository.sign("root", repository.root, "metadata/2.root.json")
    assert client.refresh() == 0
    assert (client.metadata / "root.json").read_bytes() == repository.files["metadata/2.root.json"]
    repository.asked()
    assert client.refresh() == 0
    assert repository.asked() == ["metadata/3.root.json", "metadata/timestamp.json"]


def test_downloads_come_in_order_with_one_client(client, repository):
    client.init()
    assert client.download("deep/er/file.bin", "plain.txt") == 0
    assert repository.asked() == [*FRESH, served(repository, ".file.bin"), served(repository, ".plain.txt")]
    assert sorted(client.contents()) == sorted(CONTENTS.values())


def test_cached_match_is_used_again_and_a_changed_file_is_not(client, repository):
    client.init()
    assert client.download("plain.txt") == 0
    repository.asked()
    assert client.download("plain.txt") == 0
    assert repository.asked() == KNOWN
    next(client.targets.iterdir()).write_bytes(b"altered")
    assert client.download("plain.txt") == 0
    assert repository.asked() == [*KNOWN, served(repository, ".plain.txt")]
    assert client.contents() == [CONTENTS["plain.txt"]]


@pytest.mark.parametrize("fault", ["unlisted", "missing", "wrong", "longer"])
def test_first_failure_ends_it(client, repository, fault):
    client.init()
    bad = "deep/er/file.bin"
    if fault == "unlisted":
        bad = "nowhere.txt"
    elif fault == "missing":
        del repository.files[served(repository, ".file.bin")]
    else:
        repository.files[served(repository, ".file.bin")] = b"\x00\xfe" if fault == "wrong" else b"\x00\xff" * 9
    assert client.download(bad, "plain.txt") == 1
    assert client.contents() == []
    assert not [path for path in repository.asked() if path.endswith(".plain.txt")]


@pytest.mark.parametrize("command", [["refresh"], ["download"], ["init"], []])
def test_command_that_lacks_an_option_is_not_run(client, repository, command):
    assert client.run("--metadata-dir", client.metadata, *command) == 2
    assert repository.asked() == []
