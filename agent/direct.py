"""Blobs straight from the object store that the control plane names: a signed URL, asked for without a word of our own.

The URL came from the pinned server, so it is honest; who answers there is anybody's guess, and it does not matter, for
a blob is checked against the digest that was signed. Rules:

* no signature, no header of ours but the range goes there: the URL is all that the store needs to know;
* the store is judged by the system's CAs and the configured extra one, not by the pins, which are the server's;
* where it answers with yet another redirect, a page or an error, that is no blob: nothing is followed twice.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import httpx

from agent.answers import BlobAnswer, blob_answer, check_plain
from agent.pace import paced
from bundles.errors import TryAgain

MAX_CLIENTS = 4
"""Stores remembered: there is one, or one a region."""


def public_context(extra: Sequence[bytes] = ()) -> ssl.SSLContext:
    """Return a TLS context that trusts what the system trusts, and some CAs (DER) more."""
    context = ssl.create_default_context()
    for der in extra:
        context.load_verify_locations(cadata=der)
    return context


class ObjectStore:
    """Fetches from signed URLs. From any thread.

    Args:
        context: makes the TLS context, when the first URL comes: most devices never meet one, and the system's CAs are
            some megabytes.
        proxy_of: returns the URL of the proxy that leads to a URL; empty = none.
        timeout_s: of connecting, and of each silence.
        now_s: any clock in seconds that only rises; for the pace of answers.
    """

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext] = public_context,
        proxy_of: Callable[[str], str] = lambda _url: "",
        timeout_s: float = 15.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context, self._proxy_of, self._timeout_s, self._now_s = context, proxy_of, timeout_s, now_s
        self._lock = threading.Lock()
        self._clients: dict[str, httpx.Client] = {}

    @contextlib.contextmanager
    def get(self, url: str, offset: int = 0) -> Iterator[BlobAnswer]:
        """Ask for the content behind ``url`` from ``offset`` on.

        No ``If-Range``: a store's ETag is its own affair. Other content is found out by its digest.

        Raises:
            TryAgain: ``SOURCE_UNREACHABLE``: nobody answers, or not in time; also from ``chunks``.
        """
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with self._client(url).stream("GET", url, headers=headers) as answer:
                check_plain(answer)
                yield blob_answer(answer, self._pieces(answer))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(url, error) from error

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            yield from paced(answer.iter_raw(), self._now_s)
        except httpx.HTTPError as error:
            raise _unreachable(str(answer.url), error) from error

    def _client(self, url: str) -> httpx.Client:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            client = self._clients.pop(origin, None) or httpx.Client(
                verify=self._context(),
                timeout=self._timeout_s,
                trust_env=False,
                proxy=self._proxy_of(url) or None,
                follow_redirects=False,
                headers={"User-Agent": "wavegate-agent"},
            )
            self._clients[origin] = client
            if len(self._clients) > MAX_CLIENTS:
                self._clients.pop(next(iter(self._clients))).close()
        return client


def _unreachable(url: str, error: Exception) -> TryAgain:
    host = urlsplit(url).hostname or "the object store"
    return TryAgain(
        f"The object store at {host} does not answer: {str(error) or type(error).__name__}.",
        code="SOURCE_UNREACHABLE",
        remedy="Let the device reach it, or set blob_sources; it goes on over the server meanwhile.",
    )
