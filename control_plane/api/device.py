"""The devices' doors: enrolment, renewal, desired state, reports, blobs, trust metadata, time.

Signed requests carry ``Authorization: WG-ES256 <proof>`` over method, path, body and a nonce of ours (in the manner of
RFC 9449), so they survive proxies that end TLS and need no clock on the device. Every answer carries a fresh
``WG-Nonce``; an old one gets 401 and the device asks again with the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlmodel import Session
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bundles.errors import Refused
from bundles.wire.codec import MAX_BATCH_BYTES, decode_batch, encode
from bundles.wire.messages import Ack, Profile
from bundles.wire.proof import read_proof, verify_proof
from control_plane.api import problems
from control_plane.api.blobs import add_blob_route
from control_plane.api.deltas import add_delta_route
from control_plane.api.device_commands import add_command_routes
from control_plane.broker.configuration import BrokerDoor
from control_plane.db.engine import ROW_LOCK, Database
from control_plane.db.tables import Device, UsedProof
from control_plane.errors import RequestRefused, TooLarge, Unauthenticated
from control_plane.identity.authority import Authority, read_request
from control_plane.identity.nonce import LIFE_MS, Nonces
from control_plane.services import approvals, commands, desired, enrolment, fetching
from control_plane.services.deltas import Deltas
from control_plane.services.reports import Inbound, Outcome
from control_plane.storage import Blobs

SCHEME = "WG-ES256 "
NONCE_HEADER = "WG-Nonce"
MAX_SMALL_BODY = 64 * 1024
T = TypeVar("T")


class EnrolRequest(msgspec.Struct):
    """Body of ``POST /v1/enroll``; no token asks for a person's approval."""

    token: str
    csr: str
    name: str = ""
    hardware: str = ""
    labels: dict[str, str] = {}
    serial: str = ""


class RenewRequest(msgspec.Struct):
    """Body of ``POST /v1/renew``."""

    csr: str


@dataclass(frozen=True)
class DeviceDoors:
    """Everything the devices' doors need.

    Attributes:
        db: the database.
        blobs: content-addressed files.
        metadata_dir: published trust metadata.
        authority: the device CA.
        server_ca_pem: what devices pin.
        nonces: nonces of request proofs.
        sign: the director's signature.
        ingest: takes a batch of messages in, inside a transaction.
        committed: told what a committed batch did.
        profile: timing of a new device's first document.
        broker: where devices find the broker, None where there is none.
        now_ms: server clock.
        deltas: between files of one model, None where none are offered.
        allows_approval: whether a device without a token may wait for a person's approval.
    """

    db: Database
    blobs: Blobs
    metadata_dir: Path
    authority: Authority
    server_ca_pem: str
    nonces: Nonces
    sign: desired.Sign
    ingest: Callable[[Session, list[Inbound], int], Outcome]
    committed: Callable[[Outcome], None]
    profile: Profile
    broker: Callable[[], BrokerDoor | None]
    now_ms: Callable[[], int]
    deltas: Deltas | None = None
    allows_approval: bool = False


class NonceHeader:
    """Adds a fresh ``WG-Nonce`` to every answer under ``/v1/``, refusals included."""

    def __init__(self, app: ASGIApp, nonce: Callable[[], str]) -> None:
        self._app, self._nonce = app, nonce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, adding the header when the answer starts."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return

        async def send_with_nonce(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[NONCE_HEADER] = self._nonce()
            await send(message)

        await self._app(scope, receive, send_with_nonce)


def device_router(doors: DeviceDoors) -> APIRouter:
    """Return the router of the devices' doors."""
    router = APIRouter(tags=["devices' doors"], responses=problems.responses(401, 403, 404, 422, 503))

    @router.post("/v1/enroll", status_code=200)
    async def enroll(request: Request) -> Response:
        """Exchange a claim token and a certificate request for a certificate."""
        body = await _body(request, MAX_SMALL_BODY)
        return await run_in_threadpool(_enroll, doors, body)

    @router.post("/v1/renew")
    async def renew(request: Request) -> Response:
        """Exchange the certificate for one of a new key."""
        body = await _body(request, MAX_SMALL_BODY)

        def work() -> Response:
            device = _authenticate(doors, request, body)
            asked = _decode(body, RenewRequest)
            with doors.db.write() as session:
                certificate = enrolment.renew(session, doors.authority, device, asked.csr, doors.now_ms())
            told = {"certificate": certificate, "server_ca": doors.server_ca_pem, "mqtt": _told_broker(doors)}
            return _json(told)

        return await run_in_threadpool(work)

    @router.get("/v1/device/desired")
    def get_desired(request: Request) -> Response:
        """Return the signed desired document; 304 while it has not changed."""
        device = _authenticate(doors, request, b"")
        document, etag = _document(doors, device)
        headers = {"ETag": f'"{etag}"'}
        if request.headers.get("If-None-Match", "").strip('"') == etag:
            return Response(status_code=304, headers=headers)
        return Response(document, media_type="application/json", headers=headers)

    @router.post("/v1/device/reports")
    async def post_reports(request: Request) -> Response:
        """Take in a batch of the same messages as over MQTT; answers with the same ack."""
        body = await _body(request, MAX_BATCH_BYTES)

        def work() -> Response:
            device = _authenticate(doors, request, body)
            batch = [Inbound(device, item.leaf, item.payload) for item in decode_batch(body)]
            with doors.db.write() as session:
                outcome = doors.ingest(session, batch, doors.now_ms())
                waiting = commands.count_waiting(session, device, doors.now_ms())
            doors.committed(outcome)
            ack = msgspec.structs.replace(outcome.acks.get(device) or Ack("", 0), commands=waiting)
            return Response(encode(ack), media_type="application/json")

        return await run_in_threadpool(work)

    add_command_routes(router, doors.db, doors.now_ms, lambda request, body: _authenticate(doors, request, body), _body)
    add_blob_route(router, doors.blobs, lambda request: _authenticate(doors, request, b""))
    if doors.deltas is not None:
        add_delta_route(router, doors.deltas, lambda request: _authenticate(doors, request, b""))

    @router.get("/metadata/{name}")
    def get_metadata(name: str) -> Response:
        """Return a file of trust metadata; it is public and signed."""
        return Response(fetching.read_metadata(doors.metadata_dir, name), media_type="application/json")

    @router.get("/v1/time")
    def get_time() -> Response:
        """Return the server's clock and a nonce."""
        now_ms = doors.now_ms()
        return _json({"now_ms": now_ms, "nonce": doors.nonces.current(now_ms)})

    return router


def _document(doors: DeviceDoors, device: str) -> tuple[bytes, str]:
    """Return the desired document; most polls find it signed already, and then nothing is locked."""
    now_ms = doors.now_ms()
    with doors.db.read() as session:
        signed = desired.signed_document(session, device, now_ms)
    if signed is not None:
        return signed
    with doors.db.write() as session:
        return desired.document_for(session, device, doors.sign, now_ms)


def _enroll(doors: DeviceDoors, body: bytes) -> Response:
    asked = _decode(body, EnrolRequest)
    with doors.db.write() as session:
        done = _enrol_without_token(doors, session, asked) if not asked.token else _enrol(doors, session, asked)
    if isinstance(done, str):
        return _json({"state": "pending", "fingerprint": done}, status=202)
    answer = {
        "device": done.device,
        "certificate": done.certificate_pem,
        "server_ca": doors.server_ca_pem,
        "mqtt": _told_broker(doors),
        "poll_s": doors.profile.poll_s,
    }
    return _json(answer)


def _told_broker(doors: DeviceDoors) -> dict[str, Any] | None:
    """Return what a device is told of the broker; agents that know no WebSocket pass over its port."""
    if (broker := doors.broker()) is None:
        return None
    return {name: value for name, value in broker._asdict().items() if value}


def _enrol(doors: DeviceDoors, session: Session, asked: EnrolRequest) -> enrolment.Enrolled:
    return enrolment.enrol(
        session,
        doors.authority,
        token=asked.token,
        request_pem=asked.csr,
        name=asked.name,
        hardware=asked.hardware,
        labels=asked.labels,
        profile=doors.profile,
        now_ms=doors.now_ms(),
        serial=asked.serial,
    )


def _enrol_without_token(doors: DeviceDoors, session: Session, asked: EnrolRequest) -> enrolment.Enrolled | str:
    """Return the device that this key has become, or the key's fingerprint while nobody has decided."""
    key, now_ms = read_request(asked.csr.encode()), doors.now_ms()
    if (device := approvals.approved(session, key)) is not None:
        return enrolment.again(session, doors.authority, device, now_ms)
    if not doors.allows_approval:
        raise _denied_enrolment()
    return approvals.ask(
        session,
        key,
        name=asked.name,
        hardware=asked.hardware,
        serial=asked.serial,
        labels=asked.labels,
        now_ms=now_ms,
    )


def _denied_enrolment() -> Unauthenticated:
    return Unauthenticated(
        "This server enrols with a claim token only.",
        code="ENROL_TOKEN",
        remedy="Ask an operator for one: wavegate device enroll-token.",
    )


def _authenticate(doors: DeviceDoors, request: Request, body: bytes) -> str:
    """Return the device that signed ``request``.

    Raises:
        Unauthenticated: ``PROOF_MISSING``, ``PROOF_INVALID``, ``PROOF_REPLAYED`` or ``NONCE_OLD``.
        NotAllowed: ``DEVICE_REVOKED``.
    """
    now_ms = doors.now_ms()
    header = request.headers.get("Authorization", "")
    if not header.startswith(SCHEME):
        raise _denied("PROOF_MISSING", "The request is not signed.")
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    token = header.removeprefix(SCHEME)
    try:
        claims = read_proof(token)
    except Refused as error:
        raise _denied("PROOF_INVALID", error.sentence) from error
    with doors.db.read() as session:
        row = fetching.check_active(session, claims.sub)
    renewed = _verify(doors, row, token, request.method, path, body, now_ms)
    with doors.db.write() as session:
        check_first_use(session, row.id, claims.jti, now_ms)
        if renewed:
            _take_renewed_key(session, row.id)
    return row.id


def check_first_use(session: Session, device: str, jti: str, now_ms: int) -> None:
    """Check that a proof was not used before, and note that it was used now.

    Raises:
        Unauthenticated: ``PROOF_REPLAYED``.
    """
    if session.get(UsedProof, (device, jti)) is not None:
        raise _denied("PROOF_REPLAYED", "The request was made before.")
    session.add(UsedProof(device=device, jti=jti, expires_ms=now_ms + LIFE_MS))


def _verify(doors: DeviceDoors, row: Device, token: str, method: str, path: str, body: bytes, now_ms: int) -> bool:
    """Check the proof with the device's key; return whether it was the renewed key that fitted."""

    def fits(key: EllipticCurvePublicKey) -> None:
        verify_proof(token, key, method, path, body, lambda nonce: doors.nonces.is_fresh(nonce, now_ms))

    try:
        fits(enrolment.read_key(row.public_key_pem))
    except Refused as error:
        if error.code == "PROOF_NONCE":
            raise _denied("NONCE_OLD", "The request's nonce is old.") from error
        if not row.next_public_key_pem:
            raise _denied("PROOF_INVALID", error.sentence) from error
        try:
            fits(enrolment.read_key(row.next_public_key_pem))
        except Refused as second:
            raise _denied("PROOF_INVALID", second.sentence) from second
        return True
    return False


def _take_renewed_key(session: Session, device: str) -> None:
    row = session.get(Device, device, with_for_update=ROW_LOCK)
    if row is not None and row.next_public_key_pem:
        row.public_key_pem, row.next_public_key_pem = row.next_public_key_pem, ""
        session.add(row)


def _denied(code: str, sentence: str) -> Unauthenticated:
    return Unauthenticated(
        sentence, code=code, remedy="Sign the request with the device key and the nonce of the last answer."
    )


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"The body has more than {limit} bytes.", code="BODY_TOO_LARGE", remedy="Send less at once.")
    return bytes(body)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefused(
            f"The body cannot be read: {error}.", code="BODY_INVALID", remedy="Check the agent's release."
        ) from error


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")
