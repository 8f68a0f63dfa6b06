"""Devices behind proxies: HTTP CONNECT and SOCKS5, with credentials and without, for HTTPS and for MQTT."""

from __future__ import annotations

import gc
import warnings

import pytest

from agent.https import Door, open_client
from agent.identity import pinned_context
from bundles.errors import TryAgain


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize("who", [None, ("ada", "p:ss w@rd/")], ids=["open", "credentials"])
def test_https_and_mqtt_go_through_a_proxy(site, house, proxy, scheme, who):
    between = proxy(who)
    url = proxy_url(between, scheme, who)
    kind = "connect" if scheme == "http" else "socks"
    folder = site.enrol(f"{scheme}-{'open' if who is None else 'auth'}", websocket=house.websocket, proxy=url)
    assert set(between.asked) == {(kind, "127.0.0.1", house.https)}, "enrolment went through it"
    for way, port in ("mqtt", house.mqtt), ("websocket", house.websocket):
        wire = site.wire(folder, transport=way, proxy=url)
        wire.on_route(way)
        wire.tell(3)
        wire.emptied()
        assert (kind, "127.0.0.1", port) in between.asked
        wire.close()
        site._stack.pop_all()
        site.add(between)


def proxy_url(between, scheme, who):
    from urllib.parse import quote

    return f"{scheme}://{':'.join(quote(one, safe='') for one in who) + '@' if who else ''}127.0.0.1:{between.port}"


def test_a_host_in_no_proxy_is_reached_without_it(site, house, proxy):
    between = proxy()
    folder = site.enrol("direct")
    wire = site.wire(folder, proxy=between.url("http"), no_proxy=("127.0.0.0/8",))
    wire.on_route("mqtt")
    assert between.asked == []


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_wrong_credentials_are_named_on_both_doors(site, house, proxy, until, scheme):
    between = proxy(("ada", "right"))
    wrong = f"{scheme}://ada:wrong@127.0.0.1:{between.port}"
    folder = site.enrol(f"wrong-{scheme}")
    wire = site.wire(folder, proxy=wrong)
    until(lambda: "PROXY_AUTH" in wire.codes(), "the trouble of the broker's way")
    with open_client(house.url, pinned_context(house.server_ca), proxy=wrong) as client, pytest.raises(TryAgain) as no:
        Door(client).time_ms()
    assert no.value.code == "PROXY_AUTH"
    with warnings.catch_warnings():
        # httpcore 1.0 leaves a connection whose SOCKS proxy refused it to the collector, which closes it.
        warnings.simplefilter("ignore", ResourceWarning)
        wire.close()
        site._stack.pop_all()
        site.add(between)
        wire = no = None
        gc.collect()


def test_a_proxy_that_inspects_tls_is_refused_and_works_as_an_extra_ca(site, house, inspector):
    between, ca = inspector()
    folder = site.enrol("inspected")
    url = between.url("http")
    with open_client(house.url, pinned_context(house.server_ca), proxy=url) as client, pytest.raises(TryAgain) as no:
        Door(client).time_ms()
    assert no.value.code == "SERVER_CERTIFICATE"
    wire = site.wire(folder, proxy=url, extra_ca=str(ca))
    wire.on_route("https")
    wire.tell(8)
    wire.arrived()
    assert any(line.startswith(b"POST /v1/device/reports") for line in between.read), "it has read along"
    assert "SERVER_CERTIFICATE" in wire.codes(), "and MQTT, which it cannot pass on, stays refused"
