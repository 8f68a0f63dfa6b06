"""TLS by the trust clock and by the pins of now, over real handshakes: the way of HTTPS, and the broker's."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.https import Door, open_client
from agent.identity import pinned_context
from agent.mqtt import Edges, MqttLink
from agent.tls import trust_context
from bundles.errors import TryAgain
from bundles.trust.device.client import BUILT_MS

LOOPBACK = ipaddress.ip_address("127.0.0.1")
DAY = dt.timedelta(days=1)
NOW = dt.datetime(2027, 3, 1, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)
PEM = serialization.Encoding.PEM


class Ca:
    """A CA, or one below another, with any dates."""

    def __init__(self, name, *, above=None, begins=NOW - 100 * DAY, ends=NOW + 3000 * DAY):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = above or self
        self.certificate = signer.sign(self.name, self.key.public_key(), begins, ends, ca=True)

    @property
    def der(self):
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self):
        return self.certificate.public_bytes(PEM).decode()

    def sign(self, name, public_key, begins, ends, *, ca=False):
        builder = (
            x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(public_key)
            .serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        )  # fmt: skip
        return builder.sign(self.key, hashes.SHA256())


class Server:
    """Answers ``/v1/time`` over TLS with a certificate that can be changed; counts the requests that got through."""

    def __init__(self, folder):
        self.folder, self.served = folder, 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def show(self, ca, *, begins=NOW - 10 * DAY, ends=NOW + 10 * DAY, below=()):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        leaf = ca.sign(subject, key.public_key(), begins, ends)
        chain, private = self.folder / "chain.pem", self.folder / "key.pem"
        chain.write_bytes(b"".join(one.public_bytes(PEM) for one in (leaf, *[ca.certificate for ca in below])))
        private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, private)
        self.context = context

    def _accept(self):
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw):
        with contextlib.suppress(OSError), raw, self.context.wrap_socket(raw, server_side=True) as tls:
            tls.settimeout(10)
            if tls.recv(65536).startswith(b"GET /v1/time"):
                self.served += 1
                tls.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{"now_ms":7}')


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.listener.close()


def ask(server, context):
    with open_client(f"https://127.0.0.1:{server.port}", context) as client:
        return Door(client).time_ms()


def refused(server, context):
    served = server.served
    link = MqttLink("cam-1", "127.0.0.1", server.port, lambda: context, Edges(print, print, lambda _: b""))
    with open_client(f"https://127.0.0.1:{server.port}", context) as client:
        with pytest.raises(TryAgain) as caught:
            Door(client).time_ms()
        assert server.served == served, "the request went out"
        with pytest.raises(TryAgain) as by_broker:
            link.connect()
    assert by_broker.value.code == caught.value.code, "the broker's way judges alike"
    return caught.value.code


@pytest.mark.parametrize("clock_ms", [0, BUILT_MS, NOW_MS], ids=["1970", "as built", "by its floor"])
def test_a_device_whose_clock_is_late_takes_an_honest_server(server, clock_ms):
    """It wakes after the server was given a new certificate, and only this server can tell it the time."""
    ca = Ca("honest", begins=NOW)
    server.show(ca, begins=NOW)
    assert ask(server, pinned_context(ca.pem, lambda: clock_ms)) == 7


def test_an_expired_server_certificate_is_refused_whatever_the_system_clock_says(server):
    ca = Ca("honest")
    server.show(ca, begins=NOW - 10 * DAY, ends=NOW - DAY)
    assert refused(server, pinned_context(ca.pem, lambda: NOW_MS)) == "TRUST_CLOCK"
    inside_ms = int((NOW - 2 * DAY).timestamp() * 1000)
    assert ask(server, pinned_context(ca.pem, lambda: inside_ms)) == 7, "the clock alone decides"


def test_an_expired_pin_and_an_expired_certificate_between_are_refused(server):
    old = Ca("old", ends=NOW - DAY)
    server.show(old)
    assert refused(server, pinned_context(old.pem, lambda: NOW_MS)) == "TRUST_CLOCK"
    top = Ca("top")
    between = Ca("between", above=top, ends=NOW - DAY)
    server.show(between, below=[between])
    assert refused(server, pinned_context(top.pem, lambda: NOW_MS)) == "TRUST_CLOCK"
    fresh = Ca("between", above=top)
    server.show(fresh, below=[fresh])
    assert ask(server, pinned_context(top.pem, lambda: NOW_MS)) == 7


def test_another_name_and_another_ca_stay_refused(server):
    ca, other = Ca("honest"), Ca("other")
    server.show(other)
    assert refused(server, pinned_context(ca.pem, lambda: NOW_MS)) == "SERVER_CERTIFICATE"
    server.show(ca)
    with (
        open_client(f"https://localhost:{server.port}", pinned_context(ca.pem, lambda: NOW_MS)) as client,
        pytest.raises(TryAgain) as caught,
    ):
        Door(client).time_ms()
    assert caught.value.code == "SERVER_CERTIFICATE"
    assert server.served == 0


def test_whatever_breaks_a_handshake_leaves_no_socket_behind(server):
    """Nobody there speaks TLS: neither a stranger's program nor, by a quirk of TCP on one machine, we ourselves."""
    context = pinned_context(Ca("honest").pem, lambda: NOW_MS)
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def greet():
            for _ in range(2):
                with contextlib.suppress(OSError), stranger.accept()[0] as raw:
                    raw.sendall(b"220 welcome\r\n")
                    raw.recv(65536)

        greeter = threading.Thread(target=greet)
        greeter.start()
        port = stranger.getsockname()[1]
        raw = socket.create_connection(("127.0.0.1", port))
        made = context.wrap_socket(raw, server_hostname="127.0.0.1", do_handshake_on_connect=False)
        with pytest.raises(ssl.SSLError):
            made.do_handshake()
        assert made.fileno() == -1
        link = MqttLink("cam-1", "127.0.0.1", port, lambda: context, Edges(print, print, lambda _: b""))
        with pytest.raises(TryAgain) as caught:
            link.connect()
        assert caught.value.code == "BROKER_UNREACHABLE"
        greeter.join()


def test_pins_change_under_a_context_in_use(server):
    first, spare, third = Ca("first"), Ca("spare"), Ca("third")
    pins = [first.der, spare.der]
    context = trust_context(lambda: pins, lambda: NOW_MS)
    server.show(first)
    assert ask(server, context) == 7
    server.show(spare)
    assert ask(server, context) == 7, "a device that slept through the rotation holds the spare's pin"
    server.show(third)
    assert refused(server, context) == "SERVER_CERTIFICATE"
    pins = [spare.der, third.der]
    assert ask(server, context) == 7, "it joined the set"
    server.show(first)
    assert refused(server, context) == "SERVER_CERTIFICATE", "it left the set"
