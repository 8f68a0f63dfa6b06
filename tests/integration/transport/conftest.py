"""A real control plane as a process with its real broker on both its ports, real nginx, and proxies of our own between.

The server runs once for all tests; every test enrols devices of its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import pytest

from agent.config import AgentConfig, dump_config
from agent.core import route
from agent.core.retry import Backoff
from agent.identity import write_durably
from agent.runner import link
from agent.runner.credentials import enroll_over_https
from control_plane.identity.authority import Authority

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ways.front import Nginx
from ways.gate import Gate
from ways.proxies import InspectingProxy, Proxy
from ways.refusing import Answers, RefusingBroker
from ways.server import HOST, House, now_ms, wait_until, write_pair
from ways.wire import Wire


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    made = House(tmp_path_factory.mktemp("house"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Site:
    """Where a test makes its devices, gates and proxies; all end with it."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.folder, self._stack = house, folder, contextlib.ExitStack()

    def enrol(self, name: str, *, url: str = "", mqtt: int = 0, websocket: int = 0, **how) -> Path:
        """Enrol a device; where ports are named, it is made to believe that these are the server's."""
        folder = self.folder / name
        enroll_over_https(
            folder / "identity", url=url or self.house.url, token=self.house.token(),
            server_ca_pem=self.house.server_ca, name=name, **how,
        )  # fmt: skip
        path = folder / "identity" / "enrolment.json"
        said = json.loads(path.read_bytes())
        assert said["mqtt"]["websocket_port"] == self.house.websocket, "the server tells of its WebSocket port"
        said["mqtt"]["port"], said["mqtt"]["websocket_port"] = mqtt or said["mqtt"]["port"], websocket
        path.write_text(json.dumps(said))
        return folder

    def wire(self, folder: Path, keepalive_s: int = 30, **settings) -> Wire:
        made = Wire(self.house, folder, AgentConfig(**settings), keepalive_s)
        self._stack.callback(made.close)
        return made

    def configure(self, folder: Path, **settings) -> None:
        """Write the settings that ``doctor`` and the agent read."""
        write_durably(folder / "config.toml", dump_config(AgentConfig(**settings)).encode())

    def add(self, thing):
        self._stack.callback(thing.close)
        return thing

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def site(house, monkeypatch):
    """A place for devices that come back within moments, so that tests do not wait for backoffs."""
    monkeypatch.setattr(route, "RECONNECT", Backoff(base_s=0.05, cap_s=0.2, floor_s=0.02))
    monkeypatch.setattr(route, "LOOK_AGAIN", Backoff(base_s=0.2, cap_s=0.3, floor_s=0.1))
    monkeypatch.setattr(link, "POLL_AGAIN", Backoff(base_s=0.1, cap_s=0.5))
    monkeypatch.setattr(link, "FALLBACK_AFTER_MS", 300)
    monkeypatch.setattr(link, "STABLE_MS", 200)
    monkeypatch.setattr(link, "FIRST_CONNECT_S", 0.0)
    monkeypatch.setattr(link, "FLUSH_S", 0.2)
    with tempfile.TemporaryDirectory(prefix="wg-") as folder:
        made = Site(house, Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def gate(site):
    return lambda target: site.add(Gate(target))


@pytest.fixture
def proxy(site):
    return lambda *who, **how: site.add(Proxy(*who, **how))


@pytest.fixture
def inspector(site, tmp_path):
    """Return a function that runs an inspecting proxy; (proxy, path of its CA's PEM file)."""

    def make(**how):
        folder = tmp_path / "inspector"
        authority = Authority.open_or_create(folder, "Corporate Inspection CA", now_ms())
        (folder / "ca.pem").write_bytes(authority.certificate_pem)
        return site.add(InspectingProxy(folder, authority, **how)), folder / "ca.pem"

    return make


@pytest.fixture
def refusing(site, house, tmp_path):
    """Return a function that runs a broker which refuses; its certificate is of the pinned CA."""
    return lambda **answers: site.add(RefusingBroker(tmp_path, house.authority("server-ca"), Answers(**answers)))


@pytest.fixture
def nginx(site, house, tmp_path):
    """Return a function that runs nginx on one of the examples; ``front`` issues its certificate for ``https``."""

    def make(kind: str, front: Authority | None = None):
        folder = tmp_path / f"nginx-{kind}"
        folder.mkdir()
        folder.chmod(0o755)
        ports = {f"{HOST}:8443": f"{HOST}:{house.https}"}
        if kind == "stream":
            ports |= {f"{HOST}:8883": f"{HOST}:{house.mqtt}", f"{HOST}:8884": f"{HOST}:{house.websocket}"}
            return site.add(Nginx(folder, kind, ports))
        write_pair(folder, front, "front")
        (folder / "server-ca.pem").write_text(house.server_ca)
        return site.add(Nginx(folder, kind, {**ports, "/etc/nginx/wavegate": str(folder)}))

    return make
