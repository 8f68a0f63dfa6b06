"""``wavegate server run`` as a process: what a person meets when something stands in its way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from securesystemslib.signer import SSlibKey

from bundles.trust.drafting.drafts import encode_drafts
from bundles.trust.drafting.rotation import rotate_director
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.reading import read_state
from bundles.trust.signing.eventfolder import new_event, zip_event
from bundles.trust.signing.signatures import add_signatures
from bundles.trust.signing.signers import load_signer, new_key

PROGRAM = str(Path(sys.executable).parent / "wavegate")
LIMIT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ceremony(tmp_path_factory) -> Path:
    """A data folder as the key ceremony leaves it."""
    folder = tmp_path_factory.mktemp("ceremony")
    command = [PROGRAM, "trust", "init", "--dir", folder / "keys", "--server", folder / "data", "--plain"]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return folder / "data"


@pytest.fixture
def data(ceremony, tmp_path) -> Path:
    folder = tmp_path / "data"
    subprocess.run(["cp", "-r", ceremony, folder], check=True)
    return folder


class Server:
    """A server in the background."""

    def __init__(self, data: Path, *flags: str, **environment: str) -> None:
        self.ready = data / "ready.json"
        self.ports = {"--port": free_port(), "--device-port": free_port(), "--mqtt-port": free_port()}
        ports = [text for flag, port in self.ports.items() for text in (flag, str(port))]
        self.process = subprocess.Popen(
            [PROGRAM, "server", "run", "--dir", str(data), *ports, "--ready-file", str(self.ready), *flags],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> dict:
        deadline = time.monotonic() + LIMIT_S
        while not self.ready.exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return json.loads(self.ready.read_text())

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output


@pytest.fixture
def running(data):
    started = []

    def start(*flags: str, folder: Path = data, **environment: str) -> Server:
        started.append(Server(folder, *flags, **environment))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()  # politely: it takes its broker along


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "server", "run", *flags],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_it_serves_until_told_to_stop_and_takes_its_broker_along(running):
    server = running()
    addresses = server.wait()
    ready = httpx.get(addresses["operators"] + "/readyz", timeout=10).json()
    assert ready["ready"] is True, ready
    page = httpx.get(addresses["operators"] + "/", timeout=10, follow_redirects=True)
    assert (page.status_code, page.url.path) == (200, "/sign-in")
    code, _ = server.stop()
    assert code == 0
    with pytest.raises(ProcessLookupError):
        os.kill(addresses["broker_pid"], 0)


def test_a_second_server_on_the_same_folder_is_refused_and_the_first_goes_on(running, data):
    first = running()
    addresses = first.wait()
    second = run("--dir", str(data), "--port", "0", "--device-port", "0", "--mqtt-port", str(free_port()))
    assert second.returncode != 0
    assert "[FOLDER_IN_USE]" in second.stderr
    assert "--dir" in second.stderr, "it says what to do"
    assert httpx.get(addresses["operators"] + "/healthz", timeout=10).status_code == 200


def test_a_director_exchanged_just_before_a_kill_is_the_one_that_signs_afterwards(running, data, ceremony):
    """The key is prepared over the API, named by the targets holder, and the server killed once it has answered."""
    server = running("--no-broker")
    address = server.wait()["operators"]
    made = subprocess.run(
        [PROGRAM, "server", "create-admin", "root", "--dir", str(data)], check=True, capture_output=True, text=True
    )
    api = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {made.stdout.strip()}"}, timeout=30)
    fields = api.post("/api/v1/trust/keys", json={"role": "director"}).json()["keys"]["director"]
    waiting = SSlibKey.from_dict(fields.pop("keyid"), fields)
    metadata = data / "metadata"
    state = read_state(folder_fetch(metadata), (metadata / "1.root.json").read_bytes())
    now_ms = time.time_ns() // 1_000_000
    holder = load_signer(ceremony.parent / "keys" / "keys" / "root-1.pem")
    files = add_signatures(state, encode_drafts(rotate_director(state, waiting, now_ms)), [holder])
    body = zip_event(new_event("rotate director", "", now_ms, {}, files))
    binary = {"Content-Type": "application/octet-stream"}
    assert api.post("/api/v1/trust/events", content=body, headers=binary).status_code == 200
    api.close()
    server.process.kill()
    server.process.communicate(timeout=30)
    (data / "ready.json").unlink()
    # What a kill a moment earlier would have left: published, and the prepared key not yet in its place.
    (data / "keys" / "director.pem").rename(data / "keys" / "director.next.pem")
    new_key(data / "keys" / "director.pem")
    later = running("--no-broker")
    assert httpx.get(later.wait()["operators"] + "/readyz", timeout=10).json()["ready"] is True
    assert load_signer(data / "keys" / "director.pem").public_key.keyid == waiting.keyid
    assert not (data / "keys" / "director.next.pem").exists()


@pytest.mark.parametrize("flag", ["--port", "--device-port", "--mqtt-port"])
def test_a_port_in_use_is_told_with_the_flag_to_change(data, flag):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        ports = {"--port": "0", "--device-port": "0", "--mqtt-port": str(free_port())}
        ports[flag] = str(stranger.getsockname()[1])
        done = run("--dir", str(data), *(text for pair in ports.items() for text in pair))
    assert done.returncode != 0
    assert "[PORT_IN_USE]" in done.stderr
    assert flag in done.stderr


def test_without_mosquitto_it_says_so_and_serves_over_https(running):
    server = running(WAVEGATE_SERVER_MOSQUITTO="/nonexistent/mosquitto")
    addresses = server.wait()
    assert addresses["mqtt"] is None
    checks = httpx.get(addresses["operators"] + "/readyz", timeout=10).json()["checks"]
    assert {"name": "broker", "ok": True, "detail": "none; devices poll over HTTPS"} in checks
    _, output = server.stop()
    assert "broker_missing" in output
    assert "apt-get install mosquitto" in output


def test_where_a_broker_is_required_its_absence_stops_the_start(data, monkeypatch):
    monkeypatch.setenv("WAVEGATE_SERVER_MOSQUITTO", "/nonexistent/mosquitto")
    done = run("--dir", str(data), "--port", "0", "--device-port", "0", "--broker-required")
    assert done.returncode != 0
    assert "[BROKER_MISSING]" in done.stderr


def test_a_folder_without_a_key_ceremony_and_a_setting_that_is_none_are_told(tmp_path, data):
    done = run("--dir", str(tmp_path / "empty"), "--port", "0", "--device-port", "0")
    assert done.returncode != 0
    assert "[TRUST_NOT_INITIALISED]" in done.stderr
    assert "wavegate trust init" in done.stderr
    (data / "settings.toml").write_text("rollup_buckets = 3\n")
    done = run("--dir", str(data))
    assert done.returncode != 0
    assert "[SETTINGS]" in done.stderr
    assert "rollup_buckets" in done.stderr
