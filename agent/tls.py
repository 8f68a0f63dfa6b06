"""TLS for a device whose clock may be wrong and whose pins may change: validity by the trust clock, pins as signed.

OpenSSL judges a certificate's dates by the system's clock and lets nobody set another, so a device that wakes in 1970
would refuse an honest server, and one whose clock was set back would take an expired certificate. Here OpenSSL checks
everything but the dates (``X509_V_FLAG_NO_CHECK_TIME``); once the handshake has verified the chain, the end of every
certificate in it is judged by the clock handed in: max(system, signed floor, build time of the agent).

That clock says how late it is *at least*. So a certificate that it calls expired has expired, and of one that begins
later nothing can be said: a device that woke in 1970 after its server was given a new certificate would refuse it for
ever, because only this server could tell it the time. Beginnings are therefore not judged; they guard nothing here,
where whoever could post-date a certificate holds the CA's key.

Pins follow the signed set (``x-server-cas``) without a restart: a CA that joined it is added to the context before a
handshake, and a chain that ends in one that left is refused after it. OpenSSL cannot drop a trusted certificate, so
the set itself is what counts. Connections made before stay until they end.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bundles.errors import AskPerson, TryAgain

NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` of OpenSSL >= 1.1.0; Python's ``ssl`` has no name for it."""
CLOCK_CODE = "TRUST_CLOCK"
PIN_CODE = "SERVER_CERTIFICATE"

Clock = Callable[[], int]
Pins = Callable[[], Sequence[bytes]]


class ChainRefused(ssl.SSLError):
    """A verified chain that the trust clock or the pins of now refuse."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(1, f"[{code}] {sentence}")
        self.code, self.sentence = code, sentence


class PinnedContext(ssl.SSLContext):
    """A client context that trusts a set of CA certificates, and nothing that the system trusts. See the module.

    Attributes:
        clock_ms: the trust clock, UTC epoch ms.
        pins: returns the pinned CA certificates of now, DER.
    """

    clock_ms: Clock
    pins: Pins
    _loaded: set[bytes]
    _lock: threading.Lock
    _live: weakref.WeakSet[ssl.SSLSocket]
    _pools: int
    _is_ended: bool

    def join(self) -> None:
        """Serve one more pool of connections, which ``leave``s when it is closed."""
        with self._lock:
            self._pools += 1
            self._is_ended = False

    def leave(self) -> None:
        """Serve one pool less; behind the last, break off what is left of its connections and let none begin.

        For whoever closes a pool of connections while other threads use it: one that is being made belongs to no pool
        yet, so closing that would leave it open for good. Here its thread finds it broken, and closes it.
        """
        with self._lock:
            self._pools -= 1
            if self._pools:
                return
            self._is_ended = True
            live = list(self._live)
        for sock in live:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def begin(self, sock: ssl.SSLSocket) -> None:
        """Take note of a connection.

        Raises:
            ConnectionAbortedError: the last pool is closed.
        """
        with self._lock:
            if self._is_ended:
                raise ConnectionAbortedError(errno.ECONNABORTED, "The agent ends its connections")
            self._live.add(sock)

    def take_pins(self) -> None:
        """Trust what has joined the set."""
        for der in self.pins():
            if der not in self._loaded:
                self.load_verify_locations(cadata=der)
                self._loaded.add(der)

    def judge(self, chain: Sequence[bytes]) -> None:
        """Refuse a verified chain (DER, leaf first) that has expired, or whose pin has gone.

        Raises:
            ChainRefused: ``TRUST_CLOCK`` or ``SERVER_CERTIFICATE``.
        """
        if not chain or chain[-1] not in set(self.pins()):
            raise ChainRefused(PIN_CODE, "The server's certificate is not of a server CA that is pinned now.")
        now_s = self.clock_ms() // 1000
        for der in chain:
            certificate = x509.load_der_x509_certificate(der)
            ends = certificate.not_valid_after_utc
            if now_s > ends.timestamp():
                raise ChainRefused(
                    CLOCK_CODE,
                    f"By the trust clock the certificate {certificate.subject.rfc4514_string()!r} has expired: "
                    f"it is good until {ends:%Y-%m-%d %H:%M} UTC.",
                )


class _Socket(ssl.SSLSocket):
    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError:
            if getattr(self, "_sslobj", None) is None:
                # The other side went between the connection and TLS. ``ssl`` then reads from the socket to see what
                # is left there, and when that says "reset" it forgets the socket without closing it.
                self.close()
                raise ConnectionResetError(errno.ECONNRESET, "The other side left before TLS began") from None
            raise

    def do_handshake(self, block: bool = False) -> None:
        context = self.context
        assert isinstance(context, PinnedContext)
        try:
            context.begin(self)
            context.take_pins()
            super().do_handshake(block)
            context.judge(_verified_chain(self))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise  # to be gone on with, where the socket does not block
        except OSError:
            self.close()  # paho leaves a socket open whose handshake failed
            raise


class _Object(ssl.SSLObject):
    """The same for TLS inside TLS, behind an https proxy."""

    def do_handshake(self) -> None:
        context = self.context
        assert isinstance(context, PinnedContext)
        context.take_pins()
        super().do_handshake()
        context.judge(_verified_chain(self))


def trust_context(pins: Pins, clock_ms: Clock) -> PinnedContext:
    """Return a context that judges dates by ``clock_ms`` and trusts what ``pins`` returns at each handshake.

    Raises:
        ssl.SSLError: a pin is no certificate.
    """
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context.clock_ms, context.pins, context._loaded = clock_ms, pins, set()
    context._lock, context._live = threading.Lock(), weakref.WeakSet()
    context._pools, context._is_ended = 0, False
    context.take_pins()
    return context


def secure(sock: socket.socket, context: ssl.SSLContext, host: str, timeout_s: float) -> ssl.SSLSocket:
    """Return ``sock`` under TLS, the handshake over; ``sock`` is used up, and closed where that fails.

    Raises:
        OSError: as of ``ssl``; ``refusal_in`` says whether it is about the certificate.
    """
    secured: ssl.SSLSocket | None = None
    try:
        sock.settimeout(timeout_s)
        secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        secured.do_handshake()
    except BaseException:
        with contextlib.suppress(OSError):
            (secured or sock).close()
        raise
    return secured


def read_pins(pem: str) -> list[bytes]:
    """Return the certificates of a PEM file as DER, in its order.

    Raises:
        AskPerson: ``SERVER_CA`` where it holds none.
    """
    try:
        return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem.encode("ascii"))]
    except ValueError as error:  # UnicodeEncodeError is one
        raise AskPerson(
            "The server CA file holds no certificate.",
            code="SERVER_CA",
            remedy="Give the server-ca.pem that the server printed at its first start.",
        ) from error


def write_pins(pins: Sequence[bytes]) -> str:
    """Return ``pins`` (DER) as one PEM text, in their order."""
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in pins)


def refusal_in(error: BaseException) -> TryAgain | None:
    """Return what a failed connection says of the server's certificate, None where it is about something else.

    Callers wrap what a handshake raises (httpx keeps the text alone), so the code is looked for in the words too.
    """
    text = str(error)
    if f"[{CLOCK_CODE}]" in text:
        return TryAgain(
            text.partition(f"[{CLOCK_CODE}] ")[2],
            code=CLOCK_CODE,
            remedy="Renew the server's certificate, by a restart of the server; where that is good, set this clock.",
        )
    if f"[{PIN_CODE}]" in text or "CERTIFICATE_VERIFY_FAILED" in text:
        return TryAgain(
            "The server's certificate is not of the pinned server CA.",
            code=PIN_CODE,
            remedy="`wavegate-agent doctor --network` names who issued it. A proxy that inspects TLS must leave this "
            "host alone, or its CA be given as extra_ca.",
        )
    return None


def _verified_chain(sock: Any) -> list[bytes]:
    """Return the chain OpenSSL verified, leaf first, DER. Public from Python 3.13 on; 3.10 to 3.12 have it inside."""
    public = getattr(sock, "get_verified_chain", None)
    if public is not None:
        return list(public())
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in sock._sslobj.get_verified_chain()]
