"""`wavegate-agent doctor --network` says in words what blocks: one test for each blocker, the real thing between."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest
from ways.server import write_pair

from agent.config import Folders
from agent.runner.doctor import preflight
from agent.runner.wiring import lock_folder

PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 22\r\n\r\n<html>Please sign in.."
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n"
ALL = [
    "settings", "device certificate", "name", "port", "server certificate", "server", "device is known",
    "broker by mqtt", "broker by websocket",
]  # fmt: skip


@pytest.fixture
def asked(site):
    """Return a function that asks the doctor and returns what failed, by what was looked at."""

    def ask(folder, **how):
        findings = preflight(folder, environ={}, timeout_s=how.pop("timeout_s", 5.0), **how)
        failed = {finding.what: finding for finding in findings if not finding.is_ok}
        assert all(one.code and one.detail and one.remedy for one in failed.values()), failed
        return failed

    return ask


def only(failed, what, code):
    """Return the words of the one thing that failed."""
    assert {name: one.code for name, one in failed.items()} == {what: code}, failed
    return failed[what].detail + " " + failed[what].remedy


def moved(folder, **to):
    """Have a device believe in another address of the server's."""
    path = folder / "identity" / "enrolment.json"
    said = json.loads(path.read_bytes())
    url = urlsplit(said["url"])
    said["url"] = f"https://{to.get('host', url.hostname)}:{to.get('port', url.port)}"
    path.write_text(json.dumps(said))
    return folder


def test_where_nothing_blocks_every_step_says_so(site, house, asked):
    folder = site.enrol("well", websocket=house.websocket)
    findings = preflight(folder, environ={})
    assert [(one.what, one.is_ok) for one in findings] == [(what, True) for what in ALL]


def test_the_command_says_it_to_people_and_to_programs(site, house):
    folder = site.enrol("told", mqtt=1)

    def doctor(*words):
        command = [sys.executable, "-m", "agent.cli", "doctor", "--network", "--dir", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    people, programs = doctor(), doctor("--json")
    assert (people.returncode, programs.returncode) == (1, 1)
    assert "Nothing listens on port 1" in people.stdout
    (failed,) = [one for one in json.loads(programs.stdout) if not one["is_ok"]]
    assert (failed["what"], failed["code"]) == ("broker by mqtt", "PORT_CLOSED")
    assert failed["remedy"]


def test_a_name_that_cannot_be_looked_up(site, house, asked):
    folder = moved(site.enrol("nameless"), host="no-such-host.invalid")
    assert "'no-such-host.invalid' cannot be looked up" in only(asked(folder), "name", "DNS")


def test_a_port_that_is_closed(site, house, asked):
    assert "port 1 of 127.0.0.1" in only(asked(moved(site.enrol("closed"), port=1)), "port", "PORT_CLOSED")


def test_a_port_that_a_firewall_swallows(site, house, asked):
    """A listener whose queue is full lets nobody in and says nothing, as a firewall that drops."""
    with contextlib.ExitStack() as open_sockets:
        silent = open_sockets.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        folder = moved(site.enrol("dropped"), port=silent.getsockname()[1])
        assert "443" in only(asked(folder, timeout_s=0.5), "port", "PORT_BLOCKED")


def test_something_that_takes_the_connection_and_cuts_tls_off(site, house, asked, answering):
    folder = moved(site.enrol("cut"), port=answering(b""))
    assert "TLS cannot be begun" in only(asked(folder), "server certificate", "TLS_BROKEN")


def test_a_proxy_that_inspects_tls_and_the_same_with_its_ca_given(site, house, asked, inspector):
    between, ca = inspector()
    folder = site.enrol("read-along")
    site.configure(folder, proxy=between.url("http"), transport="https")
    assert "Corporate Inspection CA" in only(asked(folder), "server certificate", "TLS_INSPECTED")
    site.configure(folder, proxy=between.url("http"), transport="https", extra_ca=str(ca))
    assert asked(folder) == {}


@pytest.mark.parametrize("page", [PAGE, REDIRECT], ids=["page", "redirect"])
@pytest.mark.parametrize("speaks_tls", [True, False], ids=["tls", "plain"])
def test_a_captive_portal(site, house, asked, inspector, answering, page, speaks_tls):
    folder = site.enrol(f"hotel-{'tls' if speaks_tls else 'plain'}-{page[9:12].decode()}")
    if speaks_tls:
        site.configure(folder, proxy=inspector(page=page)[0].url("http"), transport="https")
    else:
        moved(folder, port=answering(page))
    assert "sign-in page" in only(asked(folder), "server certificate", "CAPTIVE_PORTAL")


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("given", ["", "ada:wrong@"], ids=["none", "wrong"])
def test_a_proxy_that_wants_credentials(site, house, asked, proxy, scheme, given):
    between = proxy(("ada", "right"))
    folder = site.enrol(f"who-{scheme}-{'wrong' if given else 'none'}")
    site.configure(folder, proxy=f"{scheme}://{given}127.0.0.1:{between.port}", transport="https")
    words = only(asked(folder), "port", "PROXY_AUTH")
    assert ("does not take these" if given else "needs credentials") in words
    assert "wrong" not in words, "a password is told nobody"


def test_a_proxy_that_is_not_there_and_one_whose_name_is_not_known(site, house, asked):
    folder = site.enrol("unproxied")
    site.configure(folder, proxy="http://127.0.0.1:1", transport="https")
    only(asked(folder), "port", "PROXY_UNREACHABLE")
    site.configure(folder, proxy="socks5://no-such-proxy.invalid:1080", transport="https")
    only(asked(folder), "port", "PROXY_DNS")


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_lets_nobody_through(site, house, asked, proxy, scheme):
    folder = site.enrol(f"barred-{scheme}")
    site.configure(folder, proxy=proxy(refuses=True).url(scheme), transport="https")
    assert "443" in only(asked(folder), "port", "PROXY_REFUSED")


def test_a_certificate_of_another_name(site, house, asked, answering, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_pair(tmp_path, house.authority("server-ca"), "other", ["elsewhere.example"]))
    folder = moved(site.enrol("misnamed"), port=answering(PAGE, context))
    assert "not for '127.0.0.1'" in only(asked(folder), "server certificate", "SERVER_NAME")


def test_https_works_and_the_brokers_port_is_closed(site, house, asked):
    assert "port 1" in only(asked(site.enrol("half", mqtt=1)), "broker by mqtt", "PORT_CLOSED")


def test_a_websocket_that_is_not_granted(site, house, asked):
    folder = site.enrol("no-upgrade", websocket=house.https)
    site.configure(folder, transport="websocket")
    assert "WebSocket" in only(asked(folder), "broker by websocket", "WEBSOCKET_BLOCKED")


@pytest.mark.parametrize(
    ("reason", "code"), [(0x87, "BROKER_NOT_AUTHORIZED"), (0x97, "BROKER_QUOTA"), (0x9D, "BROKER_MOVED")]
)
def test_a_broker_that_refuses_with_a_reason(site, house, asked, refusing, reason, code):
    folder = site.enrol(f"reason-{reason:02x}", mqtt=refusing(connack=reason).port)
    assert f"0x{reason:02x}" in only(asked(folder), "broker by mqtt", code)


def test_a_device_that_is_revoked(site, house, asked, until):
    folder = site.enrol("revoked", websocket=house.websocket)
    done = house.api.post("/api/v1/devices/revoked/revoke", json={"reason": "a test"})
    assert done.is_success, done.text
    revoked = {
        "device is known": "DEVICE_REVOKED",
        "broker by mqtt": "DEVICE_CERTIFICATE_REVOKED",
        "broker by websocket": "DEVICE_CERTIFICATE_REVOKED",
    }
    seen = []

    def is_closed():
        seen.append({name: one.code for name, one in asked(folder).items()})
        return seen[-1] == revoked

    until(is_closed, seen)


@pytest.mark.parametrize("at_s", [0.0, 1e6], ids=["1970", "january 1970"])
def test_a_clock_without_a_battery(site, house, asked, at_s):
    folder = site.enrol(f"early-{at_s:.0f}", mqtt=house.mqtt)
    failed = asked(folder, now_s=lambda: at_s)
    assert {name: one.code for name, one in failed.items()} == dict.fromkeys(
        ("device certificate", "server"), "CLOCK_SKEW"
    )
    assert "NTP" in failed["device certificate"].remedy


def test_a_clock_that_is_hours_off(site, house, asked):
    failed = asked(site.enrol("hours-off"), now_s=lambda: time.time() + 7200)
    assert "differs from the server's by 7" in only(failed, "server", "CLOCK_SKEW")


def test_a_certificate_that_has_expired_meanwhile(site, house, asked):
    failed = asked(site.enrol("slept"), now_s=lambda: time.time() + 3 * 365 * 86_400)
    assert failed["device certificate"].code == "DEVICE_CERTIFICATE_EXPIRED"


def test_beside_a_running_agent_its_session_is_left_alone(site, house, until):
    folder = site.enrol("busy")
    wire = site.wire(folder)
    wire.on_route("mqtt")
    lock = lock_folder(Folders(folder).lock)
    try:
        findings = preflight(folder, environ={})
    finally:
        os.close(lock)
    assert all(one.is_ok for one in findings), findings
    assert "the agent runs" in findings[-1].detail
    wire.tell(3)
    wire.emptied()
    assert [is_up for is_up, _ in wire.states] == [True], "the connection was never lost"


def test_settings_that_make_no_sense_are_told_and_nothing_is_tried(site, house, asked):
    folder = site.enrol("astray-settings")
    (folder / "config.toml").write_text('proxy = "gopher://proxy"')
    only(asked(folder), "settings", "PROXY_INVALID")


@pytest.fixture
def answering():
    """Return a function that listens and answers whatever is said with the same bytes; its port."""
    listeners = []

    def make(answer, tls=None):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock, contextlib.suppress(OSError):
                    said_to = tls.wrap_socket(sock, server_side=True) if tls else sock
                    with said_to:
                        said_to.recv(65536)
                        said_to.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]

    yield make
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
