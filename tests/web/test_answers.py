"""What the pages answer to whatever speaks HTTP: headers, refusals, forms from elsewhere."""

from __future__ import annotations

import re

import httpx
import pytest
from starlette.testclient import TestClient

on_a_running_rollout = pytest.mark.parametrize("server", ["running"], indirect=True)


@pytest.fixture
def browse(server):
    """Makes clients of the server, signed in as somebody or nobody."""
    clients = []

    def make(who: str = "", **headers: str) -> httpx.Client:
        cookies = {"wavegate_session": server.tokens[who]} if who else {}
        client = httpx.Client(base_url=server.url, cookies=cookies, headers=headers, timeout=30)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@on_a_running_rollout
def test_every_page_forbids_what_it_does_not_need_and_is_kept_by_nobody(server, browse):
    client, rollout = browse("otto"), server.fleet.latest
    for path in ("/sign-in", "/", "/rollouts", f"/rollouts/{rollout}", f"/rollouts/{rollout}/devices", "/devices",
                 "/devices/cam-001", "/alerts", f"/rollouts/{rollout}/pause", "/rollouts/none",
                 "/devices/none"):  # fmt: skip
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy, path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store", path
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", answer.text), path
        for address in re.findall(r'\s(?:href|src|action)="([^"]*)"', answer.text):
            assert address.startswith(("/", "#")), f"{path} names {address}"
            assert not address.startswith("//"), f"{path} names {address}"


def test_static_files_are_kept_for_ever_under_the_digest_of_their_content(browse):
    client = browse()
    page = client.get("/sign-in").text
    (address,) = re.findall(r'href="(/static/[^"]*wavegate\.css)"', page)
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert client.get(address.replace("/static/", "/static/0")).status_code == 404
    digest = address.split("/")[2]
    for name in ("vendor/CHECKSUMS", "vendor/htmx.LICENSE", "../render.py", "%2e%2e/render.py"):
        assert client.get(f"/static/{digest}/{name}").status_code == 404


def test_whoever_is_not_signed_in_sees_nothing(browse):
    client = browse()
    for path in ("/rollouts", "/devices", "/alerts", "/rollouts/x", "/devices/x", "/rollouts/x/pause", "/live/devices"):
        answer = client.get(path)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/sign-in")
    assert client.get("/live/devices", headers={"HX-Request": "true"}).status_code == 401
    client.cookies.set("wavegate_session", "wgo_" + "x" * 43)
    assert client.get("/rollouts").headers["location"] == "/sign-in?ended=1&next=%2Frollouts"


def test_a_session_ends_with_its_token(server, browse):
    client = browse("vera")
    assert client.get("/rollouts").status_code == 200
    server.fleet.now += 3_600_000
    assert client.get("/rollouts").headers["location"].startswith("/sign-in?ended=1")


@on_a_running_rollout
def test_a_form_from_elsewhere_does_nothing(server, browse):
    client, rollout = browse("otto"), server.fleet.latest
    version = str(server.fleet.show(rollout).rollout.version)
    for origin in ("http://127.0.0.1:1", "https://elsewhere.example", "null", ""):
        headers = {"Origin": origin} if origin else {}
        answer = client.post(f"/rollouts/{rollout}/pause", data={"version": version}, headers=headers)
        assert answer.status_code == 403, origin
        assert "ORIGIN" in answer.text
    assert server.fleet.phase(rollout) == "running"


@on_a_running_rollout
def test_the_same_form_twice_is_done_once(server, browse):
    client, rollout = browse("otto", Origin=server.url), server.fleet.latest
    form = {"version": str(server.fleet.show(rollout).rollout.version), "reason": "twice"}
    assert client.post(f"/rollouts/{rollout}/pause", data=form).status_code == 303
    again = client.post(f"/rollouts/{rollout}/pause", data=form)
    assert again.status_code == 412
    assert "VERSION_CHANGED" in again.text
    assert server.fleet.phase(rollout) == "paused"


@on_a_running_rollout
def test_a_form_gives_nobody_more_than_their_role(server, browse):
    rollout = server.fleet.latest
    form = {"version": str(server.fleet.show(rollout).rollout.version), "reason": "x"}
    for who, verb, status, code in [
        ("vera", "pause", 403, "ROLE_REQUIRED"),
        ("otto", "approve", 403, "ROLE_REQUIRED"),
        ("sam", "pause", 403, "TEAM_REQUIRED"),
        ("otto", "launch", 404, "PATH_UNKNOWN"),
    ]:
        answer = browse(who, Origin=server.url).post(f"/rollouts/{rollout}/{verb}", data=form)
        assert answer.status_code == status
        assert code in answer.text
    assert server.fleet.phase(rollout) == "running"


@on_a_running_rollout
def test_a_broken_form_is_refused_with_its_reason(server, browse):
    client, rollout = browse("otto", Origin=server.url), server.fleet.latest
    for form in (
        {"reason": "no version"},
        {"version": "x", "reason": "x"},
        {"version": "9" * 5000, "reason": "x"},
        {"version": "1", "reason": ""},
        {"version": "1", "reason": "a\0b"},
        {"version": "1", "reason": "x" * 20_000},
        {str(n): "x" for n in range(50)},
    ):
        answer = client.post(f"/rollouts/{rollout}/rollback", data=form)
        assert answer.status_code == (413 if len(form.get("reason", "")) > 10_000 else 422)
        assert "FORM" in answer.text
    assert server.fleet.phase(rollout) == "running"


def test_an_address_that_names_nothing_is_a_page_that_says_so(browse):
    client = browse("otto")
    for path in ("/devices/%00", "/rollouts/%00", "/rollouts/%00/pause", "/rollouts/%0a/devices", "/devices/none"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"].startswith("text/html")


def test_parameters_that_mean_nothing_filter_nothing(browse):
    client = browse("vera")
    for address in (
        "/devices?hardware=%00",
        "/devices?after=%00&state=none",
        "/rollouts?after=x~y",
        "/rollouts?after=1~",
        "/rollouts?after=~",
        "/rollouts?phase=none&after=99999999999999999999~x",
        "/alerts?after=99999999999999999999&state=x",
        "/alerts?after=-1",
    ):
        assert client.get(address).status_code == 200, address


def test_signing_in_never_leads_off_the_site(server, browse):
    client = browse(Origin=server.url)
    for aim, leads_to in {
        "/devices?state=enrolled": "/devices?state=enrolled",
        "//elsewhere.example": "/rollouts",
        "https://elsewhere.example": "/rollouts",
        "/\\elsewhere.example": "/rollouts",
        "/sign-in": "/rollouts",
        "": "/rollouts",
    }.items():
        answer = client.post("/sign-in", data={"token": server.tokens["vera"], "next": aim})
        assert (answer.status_code, answer.headers["location"]) == (303, leads_to)
    assert client.post("/sign-in", data={"token": "x", "next": "/a\r\nb"}).status_code == 422


def test_the_cookie_travels_encrypted_wherever_the_page_did(server):
    def sign_in(scheme: str) -> str:
        base = f"{scheme}://wavegate.example"
        with TestClient(server.app, base_url=base, headers={"Origin": base}, follow_redirects=False) as client:
            return client.post("/sign-in", data={"token": server.tokens["vera"]}).headers["set-cookie"]

    cookie = sign_in("https")
    assert "; Secure" in cookie
    assert "; HttpOnly" in cookie
    assert "; SameSite=strict" in cookie
    assert "; Secure" not in sign_in("http")


def test_a_stream_sends_everything_first_and_then_only_what_changed(server, browse):
    with browse("vera").stream("GET", "/live/rollouts") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        messages = _messages(answer.iter_lines())
        first = next(messages)
        assert "#region-fleet" in first
        assert "There is no rollout yet." in first
        rollout = server.fleet.create(server.fleet.release("1.0.0", 1))
        news = next(messages)
        assert rollout in news
        assert "#region-fleet" not in news


def test_a_name_that_looks_like_markup_is_shown_as_it_is_written(server, browse):
    name = "<script>alert(1)</script>"
    server.fleet.alert(name)
    text = browse("vera").get("/alerts").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def _messages(lines):
    """Yield each message of a stream that carries data."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif not line and data:
            yield "\n".join(data)
            data = []
