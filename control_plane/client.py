"""A small client of the operators' API: requests, pages, events; problems come back as this project's errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx
import msgspec

from bundles import __version__
from bundles.errors import BundleRefused, TrustRefused, TryAgain, WavegateError
from control_plane import errors as e

TIMEOUT_S = 30.0
_BY_STATUS: dict[int, type[WavegateError]] = {
    401: e.Unauthenticated,
    403: e.NotAllowed,
    404: e.NotFound,
    409: e.Conflict,
    412: e.PreconditionFailed,
    413: e.TooLarge,
    422: e.RequestRefused,
    428: e.PreconditionMissing,
}


class Client:
    """One server, one token. Use it as a context manager.

    Args:
        url: such as ``http://127.0.0.1:8080``.
        token: operator token.
        transport: how requests travel; httpx's own unless a test puts the application there.
    """

    def __init__(self, url: str, token: str, *, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}", "User-Agent": f"wavegate/{__version__}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, transport=transport)
        self.url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **query: object) -> Any:
        """Return the JSON at ``path``; empty query values are left out."""
        return self._answer(self._send("GET", path, params=_query(query))).json()

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        if_match: str = "",
        idempotency_key: str = "",
    ) -> Any:
        """Send ``body`` as JSON; return the JSON answered.

        Args:
            path: from the root.
            body: plain values.
            if_match: the version this means, as an ETag.
            idempotency_key: makes a repeat answer the same.
        """
        headers = {"If-Match": if_match, "Idempotency-Key": idempotency_key}
        headers = {name: value for name, value in headers.items() if value}
        return self._answer(self._send("POST", path, json=dict(body or {}), headers=headers)).json()

    def upload(self, path: str, stream: BinaryIO) -> Any:
        """Send the bytes of ``stream`` as they are; return the JSON answered."""
        headers = {"Content-Type": "application/octet-stream"}
        return self._answer(self._send("POST", path, content=_chunks(stream), headers=headers, timeout=None)).json()

    def pages(self, path: str, *, most: int, **query: object) -> list[dict[str, Any]]:
        """Return up to ``most`` items of the list at ``path``, following its cursor."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while len(items) < most:
            page = self.get(path, limit=min(most - len(items), 500), cursor=cursor, **query)
            items += page["items"]
            if not (cursor := page["next"]):
                break
        return items

    def download(self, path: str) -> bytes:
        """Return the bytes at ``path`` as they are."""
        return self._answer(self._send("GET", path)).content

    def versioned(self, path: str) -> tuple[dict[str, Any], str]:
        """Return the JSON at ``path`` and its ETag."""
        response = self._answer(self._send("GET", path))
        return response.json(), response.headers.get("ETag", "")

    def readiness(self) -> list[dict[str, Any]]:
        """Return the checks of ``/readyz``, ready or not."""
        response = self._send("GET", "/readyz")
        return list(response.json()["checks"]) if response.status_code in (200, 503) else []

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, data) of the server-sent events at ``path`` until the server or the caller stops."""
        timeout = httpx.Timeout(TIMEOUT_S, read=None)
        try:
            with self._http.stream("GET", path, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                self._answer(response)
                name = ""
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        name = line[6:].strip()
                    elif line.startswith("data:"):
                        yield name, msgspec.json.decode(line[5:])
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **more)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise e.SetUpWrong(
                f"The address {self.url!r} cannot be used: {error}.", code="URL_INVALID", remedy="Use http://host:port."
            ) from error

    def _answer(self, response: httpx.Response) -> httpx.Response:
        if response.status_code < 400:
            return response
        raise problem(response)

    def _unreachable(self, error: Exception) -> WavegateError:
        return TryAgain(
            f"The server at {self.url} does not answer ({type(error).__name__}).",
            code="SERVER_UNREACHABLE",
            remedy="Start it with `wavegate server run`, or name another with --url or WAVEGATE_URL.",
        )


def problem(response: httpx.Response) -> WavegateError:
    """Return the error that the problem+json in ``response`` tells."""
    try:
        told = response.json()
        code, sentence = str(told["code"]), str(told["detail"])
    except (ValueError, KeyError, TypeError):
        return TryAgain(
            f"The server answered {response.status_code} without saying why.",
            code=f"HTTP_{response.status_code}",
            remedy="Check that the address is a Wavegate server.",
        )
    kind = _BY_STATUS.get(response.status_code, TryAgain if response.status_code >= 500 else WavegateError)
    if response.status_code == 422 and code.startswith("TRUST_"):
        kind = TrustRefused
    elif response.status_code == 422 and code.startswith(("BUNDLE_", "BLOB_")):
        kind = BundleRefused
    return kind(sentence, code=code, remedy=str(told.get("remedy", "")), details=told.get("details") or {})


def _query(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value not in ("", None)}


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(1 << 20):
        yield chunk
