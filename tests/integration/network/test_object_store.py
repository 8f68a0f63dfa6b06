"""A blob straight from the object store that the server names: without a word of ours, never instead of the digest."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import pytest
from obstore.store import S3Store

from agent.direct import ObjectStore
from agent.runner.blobs import ServerSource
from bundles.digest import sha256_hex
from bundles.errors import TryAgain

MB = 1_000_000


KEY_ID, SECRET, REGION = "key-id", "secret", "eu-north-1"


class Bucket:
    """An S3 bucket, as far as a server stores blobs in it and devices fetch them: PUT, HEAD, and GET of signed URLs.

    What gives a device its access is checked as S3 checks it ("Authenticating Requests: Using Query Parameters", AWS
    Signature Version 4), with the secret and nothing of the product's code. Requests signed in their headers, which
    are the server's own, are taken as they come.

    Attributes:
        content: path -> bytes.
        asked: (path, headers) of every request from a device.
        answers: in place of the content, for the next requests of devices: (status, headers, body).
        breaks: bytes after which the next connections of devices end.
        ahead_s: how far its clock is ahead.
    """

    def __init__(self) -> None:
        self.content, self.asked, self.answers, self.breaks, self.ahead_s = {}, [], [], [], 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.get(self)

            def do_HEAD(self):
                outer.get(self)

            def do_PUT(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.content[urlsplit(self.path).path] = body
                outer.answer(self, 200, {"ETag": '"put"'}, b"")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def get(self, handler) -> None:
        parts = urlsplit(handler.path)
        is_device = "Authorization" not in handler.headers
        if is_device:
            self.asked.append((handler.path, dict(handler.headers)))
            if self.answers:
                return self.answer(handler, *self.answers.pop(0))
            if not self.allows(parts.path, dict(parse_qsl(parts.query)), handler.headers["Host"]):
                return self.answer(handler, 403, {"Content-Type": "application/xml"}, b"<Error>AccessDenied</Error>")
        whole = self.content.get(parts.path)
        if whole is None:
            return self.answer(handler, 404, {"Content-Type": "application/xml"}, b"<Error>NoSuchKey</Error>")
        asked = re.match(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2] or len(whole) - 1) + 1) if asked else (0, len(whole))
        headers = {"Content-Type": "binary/octet-stream", "ETag": '"put"', "Last-Modified": formatdate(usegmt=True)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{min(end, len(whole)) - 1}/{len(whole)}"
        self.answer(handler, 206 if asked else 200, headers, whole[start:end], breaks=is_device)

    def answer(self, handler, status, headers, body, *, breaks=False) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if breaks and self.breaks:
            body, handler.close_connection = body[: self.breaks.pop(0)], True
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def allows(self, path: str, query: dict[str, str], host: str) -> bool:
        """Whether S3 would let a presigned GET through."""
        try:
            given, at = query.pop("X-Amz-Signature"), query["X-Amz-Date"]
            made = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            is_alive = datetime.now(UTC) + timedelta(seconds=self.ahead_s) < made + timedelta(
                seconds=int(query["X-Amz-Expires"])
            )
        except (KeyError, ValueError):
            return False
        scope = f"{at[:8]}/{REGION}/s3/aws4_request"
        encoded = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
        canonical = "\n".join(["GET", quote(path), encoded, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
        to_sign = "\n".join(["AWS4-HMAC-SHA256", at, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{SECRET}".encode()
        for part in (*scope.split("/"), to_sign):
            key = hmac.digest(key, part.encode(), "sha256")
        is_ours = query["X-Amz-Credential"] == f"{KEY_ID}/{scope}" and query["X-Amz-SignedHeaders"] == "host"
        return is_alive and is_ours and hmac.compare_digest(key.hex(), given)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def bucket():
    bucket = Bucket()
    yield bucket
    bucket.stop()


@pytest.fixture
def signing(served, bucket):
    """The server, whose blobs lie in the bucket and nowhere else."""
    served.blobs._store = S3Store(
        "models",
        region=REGION,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        endpoint=bucket.url,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    return served


@pytest.fixture
def blob(signing):
    return signing.put(2 * MB)


def path_of(data) -> str:
    return f"/models/sha256/{sha256_hex(data)}"


@pytest.fixture
def source(signing):
    store = ObjectStore(timeout_s=1.0)
    yield ServerSource(signing.door(), store)
    store.close()


def statuses(served, data):
    return [status for path, status in served.asked if path.endswith(sha256_hex(data))]


def test_the_bytes_come_from_the_store_and_the_store_learns_nothing_of_the_device(
    signing, bucket, disk, fetch, source, blob
):
    part = disk.part(blob)
    fetch(source, part)
    assert part.is_complete()
    assert statuses(signing, blob) == [307]
    ((path, headers),) = bucket.asked
    assert "X-Amz-Signature=" in path
    assert {name.lower() for name in headers} <= {"host", "accept", "accept-encoding", "connection", "user-agent"}
    assert "cam-1" not in str(headers)


def test_a_download_that_breaks_goes_on_there(signing, bucket, disk, fetch, source, blob):
    part = disk.part(blob)
    bucket.breaks = [1_200_000]
    assert fetch(source, part).bytes_received == 2 * MB
    assert [headers.get("Range") for _, headers in bucket.asked] == [None, "bytes=1200000-"]
    assert statuses(signing, blob) == [307, 307], "a fresh signature for each"


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Please sign in</html>"),
        (302, {"Location": "http://127.0.0.1:1/login"}, b""),
        (403, {"Content-Type": "application/xml"}, b"<Error>expired</Error>"),
        (503, {}, b""),
    ],
    ids=["page", "redirect", "refused", "busy"],
)
def test_where_something_else_answers_for_the_store_the_server_sends_the_bytes(
    signing, bucket, disk, fetch, source, blob, answer
):
    part = disk.part(blob)
    bucket.answers = [answer]
    fetch(source, part)
    assert part.is_complete()
    assert len(bucket.asked) == 1, "no second redirect is followed, and nothing is tried there again for a while"
    assert statuses(signing, blob) == [307, 200]
    other = signing.put(1000, seed=2)
    fetch(source, disk.part(other))
    assert statuses(signing, other) == [200]


def test_a_store_that_answers_and_then_brings_nothing_is_not_asked_again_for_a_while(
    signing, bucket, disk, fetch, source, blob
):
    part = disk.part(blob)
    bucket.breaks = [0]
    fetch(source, part)
    assert part.is_complete()
    assert statuses(signing, blob) == [307, 200]


def test_where_the_device_cannot_reach_the_store_the_server_goes_on_where_it_broke(
    signing, bucket, disk, fetch, source, blob, monkeypatch
):
    part = disk.part(blob)
    bucket.breaks = [1_200_000]
    signed_url, urls = signing.blobs.signed_url, []

    def elsewhere(sha256, life_s):
        """The first URL leads to the bucket; then there is nobody at the address."""
        urls.append(signed_url(sha256, life_s))
        return urls[0] if len(urls) == 1 else urls[-1].replace(bucket.url, "http://127.0.0.1:1")

    monkeypatch.setattr(signing.blobs, "signed_url", elsewhere)
    assert fetch(source, part).bytes_received == 2 * MB, "not one byte twice"
    assert part.is_complete()
    assert statuses(signing, blob) == [307, 307, 206]


@pytest.mark.parametrize("ahead_s", [-5, 3600], ids=["in time", "expired"])
def test_a_signed_url_ends(signing, bucket, disk, fetch, source, blob, ahead_s):
    bucket.ahead_s = ahead_s
    part = disk.part(blob)
    fetch(source, part)
    assert part.is_complete()
    assert statuses(signing, blob) == ([307] if ahead_s < 0 else [307, 200])


def test_a_url_is_for_one_blob_and_for_nobody_without_the_secret(signing, bucket, blob):
    other = signing.put(1000, seed=2)
    url = signing.blobs.signed_url(sha256_hex(blob), 900)
    assert httpx.get(url).content == blob
    assert httpx.get(url.replace(path_of(blob), path_of(other))).status_code == 403
    assert httpx.get(bucket.url + path_of(blob)).status_code == 403


def test_other_content_in_the_store_is_no_blob(signing, bucket, disk, fetch, source, blob):
    bucket.content[path_of(blob)] = b"y" * len(blob)
    part = disk.part(blob)
    with pytest.raises(TryAgain) as caught:
        fetch(source, part)
    assert caught.value.code == "DOWNLOAD_DIGEST"
    assert (part.size(), part.is_complete()) == (0, False)


def test_a_device_that_does_not_follow_is_sent_the_bytes(signing, disk, fetch, blob):
    part = disk.part(blob)
    fetch(signing.source(), part)
    assert part.is_complete()
    assert statuses(signing, blob) == [200]


def test_a_store_that_cannot_sign_sends_the_bytes(served, disk, fetch):
    data = served.put(1000)
    store = ObjectStore()
    fetch(ServerSource(served.door(), store), disk.part(data))
    assert statuses(served, data) == [200]
