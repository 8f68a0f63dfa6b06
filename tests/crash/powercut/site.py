"""A control plane of a few lines for one real agent process: HTTPS on the loopback, releases of the demo's models."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bundles.build import BuildSpec, VariantSource, build, read_rows
from bundles.contract import Contract, TensorSpec
from bundles.digest import sha256_hex
from bundles.trust.director import sign_desired
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.ceremony import PROFILES, hold_ceremony
from bundles.trust.signing.signers import load_signer
from bundles.wire import codec
from bundles.wire.messages import Ack, Desired, DesiredModel, Event, Profile, Reported, UpMessage

LOOPBACK = "127.0.0.1"
DEVICE, MODEL = "cam-1", "vision/digits"
DATA = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
CONTRACT = Contract(
    inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0.0, max=16.0, kind="image")],
    outputs=[TensorSpec("probabilities", "float32", [1, 10])],
    task="classification",
    labels=[str(digit) for digit in range(10)],
)
FAST = Profile(
    heartbeat_s=0.3, report_s=600, canary_report_s=600, probation_s=0.3, accept_s=60, download_s=60, activate_s=60,
    poll_s=0.5,
)  # fmt: skip


class Authority:
    """A CA of this test's own."""

    def __init__(self, name: str) -> None:
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), name
        self.pem = self._issue(name, self._key.public_key(), ca=True)

    def issue(self, name: str, key: Any) -> str:
        """Return a client's certificate."""
        return self._issue(name, key, usage=ExtendedKeyUsageOID.CLIENT_AUTH)

    def server_files(self, folder: Path) -> tuple[Path, Path]:
        """Write a server's certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self._issue("server", key.public_key(), usage=ExtendedKeyUsageOID.SERVER_AUTH)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "server.pem").write_text(pem)
        (folder / "server.key").write_bytes(key.private_bytes(*form))
        return folder / "server.pem", folder / "server.key"

    def _issue(self, name: str, key: Any, *, ca: bool = False, usage: Any = None) -> str:
        start = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
            builder = builder.add_extension(address, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class Site:
    """What the agent talks to; start with ``start``.

    Attributes:
        folder: for keys and metadata.
        said: messages of the agent, in order.
        desired: the signed document it is asked by.
    """

    folder: Path
    said: list[UpMessage] = field(default_factory=list)
    desired: bytes = b""
    _blobs: dict[str, bytes] = field(default_factory=dict)
    _gen: int = 0

    def start(self) -> None:
        """Hold the ceremony and listen."""
        self.ca, self._devices = Authority("server CA"), Authority("device CA")
        ceremony = hold_ceremony(
            self.folder / "ceremony", PROFILES["solo"], ["vision"], passphrase=None, now_ms=_now_ms(), scheme="ecdsa"
        )
        keys, self._metadata = ceremony.server / "keys", ceremony.server / "metadata"
        self.root = ceremony.root.read_bytes()
        self._repository = OnlineRepository(
            self._metadata, load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem"), _now_ms
        )
        self._director = load_signer(keys / "director.pem")
        self._team = load_signer(self.folder / "ceremony" / "keys" / "team-vision.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.ca.server_files(self.folder))
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                site._answer(self, b"")

            def do_POST(self) -> None:
                site._answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # agents are killed in the middle of a word here

        self._http = Quiet((LOOPBACK, 0), Handler)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://{LOOPBACK}:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()

    def publish(self, version: str, counter: int) -> DesiredModel:
        """Build, sign and publish a release of the demo's models."""
        spec = BuildSpec(
            team="vision", model="digits", version=version, release_counter=counter, channel="prod",
            created_ms=_now_ms(), contract=CONTRACT, goldens=DATA / f"digits-goldens-{version}.npz",
            variants=[VariantSource("onnx-int8", "onnxruntime", DATA / f"digits-{version}.onnx")],
            rows=read_rows(DATA / "digits-train.npz", CONTRACT),
        )  # fmt: skip
        archive = build(spec, self.folder / f"{version}.wgb").archive
        team = current_team(folder_fetch(self._metadata), self.root, "vision", _now_ms())
        role = add_release(team, archive.manifest_bytes, [self._team], _now_ms())
        self._repository.publish({role.name: role.data})
        self._blobs[archive.sha256] = archive.manifest_bytes
        self._blobs.update({entry.sha256: archive.read(entry) for entry in archive.manifest.files})
        return DesiredModel(archive.manifest.target_path, archive.sha256, len(archive.manifest_bytes), counter)

    def ask(self, wanted: DesiredModel) -> None:
        """Ask the device to run a release."""
        self._gen += 1
        version, now_ms = self._repository.timestamp_version, _now_ms()
        document = Desired(
            DEVICE, self._gen, now_ms, now_ms + 86_400_000, {MODEL: wanted}, profile=FAST, trust_version=version
        )
        self.desired = sign_desired(document, self._director)

    def claimed(self, sha256: str) -> list[UpMessage]:
        """Return what the agent said that claims success of a bundle."""
        return [
            message
            for message in list(self.said)
            if (isinstance(message, Event) and message.sha256 == sha256 and message.data.get("phase") == "confirmed")
            or (isinstance(message, Reported) and _confirms(message, sha256))
        ]

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        status, headers, content = self._route(handler.path, handler.headers, body)
        handler.send_response(status)
        for name, value in {"WG-Nonce": "nonce", "Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if status != 304:
            handler.wfile.write(content)

    def _route(self, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        octets = {"Content-Type": "application/octet-stream"}
        if path == "/v1/time":
            return 200, {}, json.dumps({"now_ms": _now_ms(), "nonce": "nonce"}).encode()
        if path == "/v1/enroll":
            key = x509.load_pem_x509_csr(json.loads(body)["csr"].encode()).public_key()
            certificate = self._devices.issue(DEVICE, key)
            answer = {"device": DEVICE, "certificate": certificate, "server_ca": self.ca.pem, "mqtt": None}
            return 200, {}, json.dumps({**answer, "poll_s": 0.5}).encode()
        if path.startswith("/metadata/") and (self._metadata / path.removeprefix("/metadata/")).is_file():
            return 200, octets, (self._metadata / path.removeprefix("/metadata/")).read_bytes()
        if path == "/v1/device/desired" and self.desired:
            etag = f'"{sha256_hex(self.desired)[:16]}"'
            return (304, {"ETag": etag}, b"") if headers.get("If-None-Match") == etag else (
                200, {"ETag": etag}, self.desired
            )  # fmt: skip
        if path == "/v1/device/reports":
            return 200, {}, codec.encode(self._taken(body))
        blob = self._blobs.get(path.rpartition("/")[2])
        if blob is None:
            return 404, {"Content-Type": "application/problem+json"}, b'{"title": "no", "code": "NOT_FOUND"}'
        start = int(headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        there = {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"} if start else {}
        return 206 if start else 200, {**octets, **there}, blob[start:]

    def _taken(self, body: bytes) -> Ack:
        messages = [codec.decode_up(envelope.leaf, envelope.payload) for envelope in codec.decode_batch(body)]
        self.said += messages
        numbered = [message for message in messages if not isinstance(message, Reported)]
        epoch = messages[0].boot_epoch if messages else ""  # type: ignore[union-attr]
        return Ack(epoch, 0, also=[message.seq for message in numbered])  # type: ignore[union-attr]


def _confirms(message: Reported, sha256: str) -> bool:
    said = message.models.get(MODEL)
    return said is not None and said.phase == "confirmed" and said.target_sha256 == sha256


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
