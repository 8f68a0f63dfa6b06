"""Bytes are counted inside TLS: exactly what the two programs write, and nothing of the handshake."""

import datetime as dt
import http.server
import ipaddress
import ssl
import threading

import pytest
from benches.measuring.counted import counting
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.https import open_client

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def server(tmp_path):
    """A TLS server that keeps what it receives and writes one fixed answer."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self):
            while data := self.request.recv(65536):
                received.append(data)
                self.request.sendall(ANSWER)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"https://127.0.0.1:{listener.server_address[1]}", ssl.create_default_context(cafile=str(pem)), received
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_requests_and_answers_are_counted_to_the_byte(server):
    url, tls, received = server
    with open_client(url, tls) as client:
        counts = counting(client, tls)
        for _ in range(2):
            counts.reset()
            received.clear()
            assert client.get("/x", headers={"Authorization": "a" * 300}).text == "hello"
            assert (counts.up, counts.down) == (len(b"".join(received)), len(ANSWER))
