"""The HTTPS door: polling, reports, blobs and metadata, over TLS pinned to the server CA.

``Door`` speaks unsigned (enrolment, trust metadata, time); ``DeviceDoor`` signs every request with the device key
(``bundles.wire.proof``), taking the nonce from the last answer's ``WG-Nonce`` and asking once more with the new one
where the server calls it old. Many devices may share one ``httpx.Client``: it holds nothing of a device.

Whatever goes wrong, callers see two families: ``TryAgain`` (network, load, a captive portal) and ``Refused``.
Answers are read as they arrive, with a limit and a least pace, so that an endless one fills neither memory nor disk,
and one that drips holds nobody up.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.answers import BlobAnswer, blob_answer, check_no_page, check_plain, number
from agent.pace import paced
from agent.tls import PinnedContext, refusal_in
from bundles.errors import Refused, TryAgain, WavegateError
from bundles.trust.fetch import NotServed
from bundles.wire import codec
from bundles.wire.commands import decode_commands
from bundles.wire.messages import Ack, UpEnvelope
from bundles.wire.proof import make_proof

NONCE_HEADER = "WG-Nonce"
MAX_ANSWER_BYTES = 1 << 20
MAX_PROBLEM_BYTES = 1 << 16
"""A problem document is small; the rest of another page is not worth reading."""
KEEPALIVE_S = 60.0
"""A handshake costs both sides more than an idle connection."""
_PLAIN = {"Accept-Encoding": "identity"}
"""Lengths and ranges are of the content itself, and 64 KiB received are not 64 MiB in memory."""
_LATER = frozenset({408, 425, 429})
_STATUS_CODES = {401: "DEVICE_UNAUTHORIZED", 403: "DEVICE_FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT"}


@dataclass(frozen=True)
class DesiredAnswer:
    """A desired document as served: the exact bytes, and the ETag to ask with the next time."""

    data: bytes
    etag: str


class _Problem(msgspec.Struct):
    """The part of an RFC 9457 problem document that an agent shows."""

    title: str = ""
    detail: str = ""
    code: str = ""
    remedy: str = ""


class _Time(msgspec.Struct):
    now_ms: int


def open_client(url: str, tls: ssl.SSLContext, timeout_s: float = 15.0, proxy: str = "") -> httpx.Client:
    """Return a client for ``Door``; the environment's proxies are not read.

    Args:
        url: base URL of the server's device port.
        tls: pinned context.
        timeout_s: of connecting, and of each silence while reading.
        proxy: URL of a proxy, HTTP CONNECT or SOCKS; empty = none. See ``agent.proxy``.
    """
    return _Client(
        base_url=url,
        verify=tls,
        timeout=timeout_s,
        trust_env=False,
        proxy=proxy or None,
        follow_redirects=False,
        limits=httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=KEEPALIVE_S),
    )


class _Client(httpx.Client):
    """A client that leaves nothing open when it is closed while other threads are connecting by it."""

    def __init__(self, *, verify: ssl.SSLContext, **how: Any) -> None:
        super().__init__(verify=verify, **how)
        self._tls = verify if isinstance(verify, PinnedContext) else None
        if self._tls is not None:
            self._tls.join()

    def close(self) -> None:
        """Close everything, also what is just being made; being told twice is normal."""
        tls, self._tls = self._tls, None
        if tls is not None:
            tls.leave()
        super().close()

    def __exit__(self, *raised: Any) -> None:
        self.close()
        super().__exit__(*raised)


class Door:
    """The unsigned half of the server's device surface.

    Args:
        client: shared or own; must be pinned.
        now_s: any clock in seconds that only rises; for the pace of answers.
    """

    def __init__(self, client: httpx.Client, now_s: Callable[[], float] = time.monotonic) -> None:
        self._client, self._now_s = client, now_s

    def post(self, path: str, body: bytes) -> bytes:
        """Post JSON and return the answer's body.

        Raises:
            Refused: the server said no.
            TryAgain: it could not be reached, or is busy.
        """
        with self._exchange("POST", path, body, {"Content-Type": "application/json"}) as answer:
            return self._read_ok(answer, MAX_ANSWER_BYTES)

    def metadata(self, name: str, max_length: int) -> Generator[bytes, None, None]:
        """Return a file of trust metadata in pieces as they arrive; this is a ``bundles.trust.fetch.MetadataFetch``.

        The connection is free again after the last piece, after the one that makes it longer than ``max_length``,
        or when the pieces are closed.

        Raises:
            NotServed: the server answered, and not with the file.
            TryAgain: it could not be reached; also from the pieces, where it broke off.
        """
        with contextlib.ExitStack() as opened:
            answer = opened.enter_context(self._exchange("GET", f"/metadata/{name}", b"", {}))
            if not answer.is_success:
                raise NotServed(name, answer.status_code)
            check_no_page(answer)
            pieces = _until_longer(opened.pop_all(), answer, max_length)
            next(pieces)  # begun, so that closing it closes the connection
            return pieces

    def time_ms(self) -> int:
        """Return the server's clock, UTC epoch ms (a hint: nothing that matters is judged by it)."""
        with self._exchange("GET", "/v1/time", b"", {}) as answer:
            return _decode(self._read_ok(answer, MAX_ANSWER_BYTES), _Time).now_ms

    def _read_ok(self, answer: httpx.Response, max_bytes: int) -> bytes:
        if not answer.is_success:
            text = b""
            with contextlib.suppress(TryAgain):
                text = self._read_some(answer, MAX_PROBLEM_BYTES)
            raise _refusal(answer, text)
        check_no_page(answer)
        data = self._read_some(answer, max_bytes)
        if len(data) > max_bytes:
            raise Refused(
                f"The server's answer has more than {max_bytes} bytes.",
                code="ANSWER_TOO_LARGE",
                remedy="Check who answers at the server's address.",
            )
        return data

    def _read_some(self, answer: httpx.Response, max_bytes: int) -> bytes:
        """Read the body, to its end or a little past ``max_bytes``."""
        data = bytearray()
        for piece in self._pieces(answer):
            data += piece
            if len(data) > max_bytes:
                break
        return bytes(data)

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            yield from paced(answer.iter_raw(), self._now_s)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error

    @contextlib.contextmanager
    def _exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        try:
            with self._client.stream(method, path, content=body or None, headers=_PLAIN | dict(headers)) as answer:
                check_plain(answer)
                yield answer
        except httpx.HTTPError as error:
            raise _unreachable(error) from error


class DeviceDoor(Door):
    """The signed half: everything a device does under its own name.

    Args:
        client: shared or own; must be pinned.
        device: id.
        key: returns the device's private key as it is now (it changes at renewal).
        now_s: as of ``Door``.
    """

    def __init__(
        self,
        client: httpx.Client,
        device: str,
        key: Callable[[], ec.EllipticCurvePrivateKey],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(client, now_s)
        self._device, self._key = device, key
        self._nonce = ""

    def post_signed(self, path: str, body: bytes) -> bytes:
        """Post JSON, signed; otherwise as ``post``."""
        with self._signed("POST", path, body, {"Content-Type": "application/json"}) as answer:
            return self._read_ok(answer, MAX_ANSWER_BYTES)

    def desired(self, etag: str = "") -> DesiredAnswer | None:
        """Ask what this device should be; None where that has not changed since ``etag``, or nothing is assigned.

        Raises:
            Refused: the server said no.
            TryAgain: it could not be reached, is busy, or something else answered in its place.
        """
        headers = {"If-None-Match": f'"{etag}"'} if etag else {}
        with self._signed("GET", "/v1/device/desired", b"", headers) as answer:
            if answer.status_code in (204, 304, 404):
                return None
            data = self._read_ok(answer, codec.MAX_PAYLOAD_BYTES)
            if not data:
                return None
            return DesiredAnswer(data, answer.headers.get("ETag", "").removeprefix("W/").strip('"'))

    def commands(self) -> list[bytes]:
        """Ask for the commands that wait for this device, each as its own bytes.

        Raises:
            Refused: the server said no, or its answer cannot be read.
            TryAgain: it could not be reached, or is busy.
        """
        with self._signed("GET", "/v1/device/commands", b"", {}) as answer:
            return decode_commands(self._read_ok(answer, MAX_ANSWER_BYTES))

    def reports(self, batch: list[UpEnvelope]) -> Ack:
        """Hand over a batch of upward messages; the answer is the same application ack as over MQTT.

        Raises:
            Refused: the server said no, or its ack cannot be read.
            TryAgain: it could not be reached, or is busy.
        """
        body = codec.encode_batch(batch)
        with self._signed("POST", "/v1/device/reports", body, {"Content-Type": "application/msgpack"}) as answer:
            return codec.decode_ack(self._read_ok(answer, MAX_ANSWER_BYTES))

    @contextlib.contextmanager
    def blob(self, path: str, offset: int = 0, etag: str = "", *, follows: bool = False) -> Iterator[BlobAnswer]:
        """Ask for a blob from ``offset`` on; what the status means is for the caller to judge.

        Args:
            path: such as ``/v1/blobs/sha256/<hex>``.
            offset: first byte wanted; 0 = all of it.
            etag: the blob's digest: a server that holds other content sends all of it instead of the rest.
            follows: tell the server that it may answer with the address of an object store instead.

        Raises:
            TryAgain: the server could not be reached; also from ``chunks``, where it broke off in the middle.
        """
        headers = {}
        if offset:
            headers = {"Range": f"bytes={offset}-", "If-Range": f'"{etag}"'}
        if follows:
            headers["WG-Redirect"] = "1"
        with self._signed("GET", path, b"", headers) as answer:
            yield blob_answer(answer, self._pieces(answer))

    @contextlib.contextmanager
    def _signed(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        with contextlib.ExitStack() as stack:
            nonce = self._nonce  # other threads replace it meanwhile; what counts is the one this request was made with
            answer = stack.enter_context(self._proven(method, path, body, headers, nonce))
            if answer.status_code == 401 and self._nonce != nonce:
                with contextlib.suppress(TryAgain):
                    self._read_some(answer, MAX_PROBLEM_BYTES)  # read to its end, the connection serves again
                stack.close()
                answer = stack.enter_context(self._proven(method, path, body, headers, self._nonce))
            yield answer

    @contextlib.contextmanager
    def _proven(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], nonce: str
    ) -> Iterator[httpx.Response]:
        proof = make_proof(self._key(), self._device, method, path, body, nonce)
        with self._exchange(method, path, body, {**headers, "Authorization": f"WG-ES256 {proof}"}) as answer:
            self._nonce = answer.headers.get(NONCE_HEADER) or self._nonce
            yield answer


def _until_longer(
    opened: contextlib.ExitStack, answer: httpx.Response, max_length: int
) -> Generator[bytes, None, None]:
    """Yield nothing once, then the body; one piece too long is enough for the caller to refuse it."""
    with opened:
        yield b""
        left = max_length
        for piece in answer.iter_raw():
            left -= len(piece)
            if left < 0:
                opened.close()
            yield piece
            if left < 0:
                return


def _refusal(answer: httpx.Response, text: bytes) -> WavegateError:
    """Turn an answer that is no success, and as much of its text as was read, into an error of the right family."""
    status = answer.status_code
    problem = _Problem()
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        problem = msgspec.json.decode(text, type=_Problem)
    sentence = problem.detail or problem.title or f"The server answered {status}."
    details: dict[str, object] = {"status": status}
    if status in _LATER or status >= 500 or 300 <= status < 400:
        if (retry_after_s := number(answer.headers.get("Retry-After", ""))) is not None:
            details["retry_after_s"] = retry_after_s
        return TryAgain(
            sentence,
            code=problem.code or "SERVER_BUSY",
            remedy=problem.remedy or "The agent tries again by itself.",
            details=details,
        )
    return Refused(
        sentence,
        code=problem.code or _STATUS_CODES.get(status, "SERVER_REFUSED"),
        remedy=problem.remedy or "Look for this device's id in the server's log.",
        details=details,
    )


def _decode(data: bytes, kind: type[_Time]) -> _Time:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TryAgain(
            f"The server's answer cannot be read: {error}.", code="ANSWER_INVALID", remedy="Check the server's release."
        ) from error


def _unreachable(error: httpx.HTTPError) -> TryAgain:
    if (refused := refusal_in(error)) is not None:
        return refused
    if isinstance(error, httpx.ProxyError):
        is_unknown = any(word in str(error).lower() for word in ("407", "auth", "username"))
        return TryAgain(
            f"The proxy does not let us through: {error}.",
            code="PROXY_AUTH" if is_unknown else "PROXY_REFUSED",
            remedy="Check `proxy` in config.toml; `wavegate-agent doctor --network` says more.",
        )
    return TryAgain(
        f"The server cannot be reached: {str(error) or type(error).__name__}.",
        code="SERVER_UNREACHABLE",
        remedy="Check the URL and the network; the running model keeps answering.",
    )
