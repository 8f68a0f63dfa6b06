"""What ``wavegate-agent doctor --network`` looks at: every step of every way to the control plane, and what blocks it.

Works without a running agent and beside one: it takes no lock, and where an agent runs it leaves MQTT alone, because
a second connection of one identity would end the first. Changes nothing. Each step goes on from the one before, so the
first that fails is what is to be mended.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent import reach
from agent.config import AgentConfig, Folders, load_config
from agent.core.route import Way, trouble_of, ways_of
from agent.https import DeviceDoor, Door, open_client
from agent.identity import Identity, load_identity
from agent.mqtt import ALPN
from agent.proxy import Proxies, dial, not_reached, read_proxies
from agent.runner.credentials import Credentials, first_clock_ms, read_extra_ca
from agent.runner.selftest import Finding, check_clock, is_running
from agent.tls import PIN_CODE, refusal_in, secure
from bundles.errors import TryAgain, WavegateError

TIMEOUT_S = 10.0
MAY_BE_EARLY_S = 600


@dataclass(frozen=True)
class _Case:
    """What is looked at."""

    folders: Folders
    config: AgentConfig
    identity: Identity
    credentials: Credentials
    proxies: Proxies
    now_s: float
    timeout_s: float

    @property
    def host(self) -> str:
        return urlsplit(self.identity.enrolment.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.identity.enrolment.url).port or 443


def preflight(
    folder: Path,
    *,
    environ: Mapping[str, str] | None = None,
    now_s: Callable[[], float] = time.time,
    timeout_s: float = TIMEOUT_S,
) -> list[Finding]:
    """Look at the way to the control plane, step by step.

    Args:
        folder: the agent's.
        environ: the process's where None.
        now_s: the system's clock, UTC epoch seconds.
        timeout_s: of each step.
    """
    findings: list[Finding] = []

    def step(what: str, look: Callable[[], str]) -> bool:
        try:
            findings.append(Finding(what, True, look()))
        except WavegateError as error:
            findings.append(Finding(what, False, error.sentence, error.code, error.remedy or ""))
        return findings[-1].is_ok

    try:
        case = _open(Folders(folder), os.environ if environ is None else environ, now_s(), timeout_s)
    except WavegateError as error:
        return [Finding("settings", False, error.sentence, error.code, error.remedy or "")]
    findings.append(Finding("settings", True, _settings(case)))
    step("device certificate", lambda: _certificate(case))
    is_there = (
        step("name", lambda: _name(case))
        and step("port", lambda: _port(case))
        and step("server certificate", lambda: _tls(case))
        and step("server", lambda: _server(case))
    )
    if is_there:
        step("device is known", lambda: _device(case))
    broker = case.identity.enrolment.mqtt
    if broker is not None:
        ports: dict[Way, int] = {"mqtt": broker.port, "websocket": broker.websocket_port}
        for way in ways_of(case.config.route, has_mqtt=True, has_websocket=broker.websocket_port > 0):
            step(f"broker by {way}", lambda way=way: _broker(case, way, broker.host, ports[way]))  # type: ignore[misc]
    return findings


def _open(folders: Folders, environ: Mapping[str, str], now_s: float, timeout_s: float) -> _Case:
    config = load_config(folders.config)
    identity = load_identity(folders.identity)
    credentials = Credentials(identity, clock_ms=first_clock_ms, extra=read_extra_ca(config.extra_ca))
    proxies = read_proxies(config.proxy, config.no_proxy, environ)
    return _Case(folders, config, identity, credentials, proxies, now_s, timeout_s)


def _settings(case: _Case) -> str:
    proxy = case.proxies.to(case.host, case.port)
    said = f"{case.identity.enrolment.url}, {f'by the proxy {proxy}' if proxy else 'no proxy'}"
    return f"{said}, transport {case.config.route}" + (", with an extra CA" if case.config.extra_ca else "")


def _certificate(case: _Case) -> str:
    """Check the dates of the device's own certificate, and so the clock."""
    identity = case.identity
    if case.now_s < identity.not_before.timestamp() - MAY_BE_EARLY_S:
        raise TryAgain(
            f"This device's clock says {time.strftime('%Y-%m-%d %H:%M', time.gmtime(case.now_s))} UTC, which is before "
            "its certificate was issued.",
            code="CLOCK_SKEW",
            remedy="Set the clock, or let NTP do so; a clock without a battery starts in 1970.",
        )
    if case.now_s > identity.not_after.timestamp():
        raise TryAgain(
            f"This device's certificate has expired on {identity.not_after:%Y-%m-%d}.",
            code="DEVICE_CERTIFICATE_EXPIRED",
            remedy="Nothing, where the server can be reached: the agent renews it by itself. Otherwise mend the way.",
        )
    return f"{identity.device}, good until {identity.not_after:%Y-%m-%d}"


def _name(case: _Case) -> str:
    if case.proxies.to(case.host, case.port) is not None:
        return "looked up by the proxy"
    try:
        found = socket.getaddrinfo(case.host, case.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise not_reached(error, case.host, case.port) from error
    return f"{case.host} is {found[0][4][0]}"


def _dial(case: _Case, host: str, port: int) -> socket.socket:
    proxy = case.proxies.to(host, port)
    if proxy is not None and proxy.scheme == "https":
        raise TryAgain(
            "This proxy is reached by TLS, which only the agent's own HTTPS goes through.",
            code="PROXY_KIND",
            remedy="Name an http:// or socks5:// proxy to have every way.",
        )
    return dial(host, port, proxy, case.timeout_s)


def _port(case: _Case) -> str:
    proxy = case.proxies.to(case.host, case.port)
    if proxy is not None and proxy.scheme == "https":
        return f"port {case.port}, by the agent's own HTTPS only"
    _dial(case, case.host, case.port).close()
    return f"port {case.port} is open" + (f" by the proxy {proxy}" if proxy else "")


def _tls(case: _Case) -> str:
    proxy = case.proxies.to(case.host, case.port)
    if proxy is not None and proxy.scheme == "https":
        return "seen at the next step"
    sock = _dial(case, case.host, case.port)
    try:
        secure(sock, case.credentials.server_context(), case.host, case.timeout_s).close()
    except OSError as error:
        raise _why_no_tls(case, error) from error
    return "of the extra CA or of a pinned one" if case.config.extra_ca else "of the pinned server CA"


def _why_no_tls(case: _Case, error: OSError) -> TryAgain:
    if "mismatch" in str(error):
        return TryAgain(
            f"The server's certificate is not for {case.host!r}.",
            code="SERVER_NAME",
            remedy="Add this name to `names` in the server's settings, or enrol with the name that it has.",
        )
    refused = refusal_in(error)
    if refused is not None and refused.code != PIN_CODE:
        return refused
    seen = reach.look_without_trust(_dial(case, case.host, case.port), case.host, case.timeout_s)
    if seen.is_page or (not seen.speaks_tls and _is_plain(case)):
        return TryAgain(
            "A sign-in page answers in the server's place.",
            code="CAPTIVE_PORTAL",
            remedy="Sign in to this network, or have the device let through.",
        )
    if refused is not None:
        return TryAgain(
            f"The certificate that answers is issued by {seen.issuer or 'nobody'!r}, not by the pinned server CA.",
            code="TLS_INSPECTED",
            remedy="A proxy that inspects TLS: have it leave this host alone, or set extra_ca to its CA's PEM file "
            "(reports then go over HTTPS polling). If nobody inspects here, this is somebody else's server.",
        )
    return TryAgain(
        f"TLS cannot be begun: {error}.",
        code="TLS_BROKEN",
        remedy="Something on the way cuts TLS off, or no Wavegate server listens there; try port 443 or a proxy.",
    )


def _is_plain(case: _Case) -> bool:
    return reach.answers_plainly(_dial(case, case.host, case.port), case.host, case.timeout_s)


def _server(case: _Case) -> str:
    url = case.identity.enrolment.url
    context, proxy = case.credentials.server_context(), case.proxies.to_url(url)
    with open_client(url, context, case.timeout_s, proxy) as client:
        check_clock(Door(client).time_ms(), case.now_s)
    return "answers, and its clock agrees with this one"


def _device(case: _Case) -> str:
    url = case.identity.enrolment.url
    context, proxy = case.credentials.server_context(), case.proxies.to_url(url)
    with open_client(url, context, case.timeout_s, proxy) as client:
        DeviceDoor(client, case.identity.device, case.credentials.key).desired()
    return "the server takes requests of this device"


def _broker(case: _Case, way: Way, host: str, port: int) -> str:
    context = case.credentials.broker_context()
    context.set_alpn_protocols(ALPN[way])
    sock = _dial(case, host, port)
    try:
        with secure(sock, context, host, case.timeout_s) as tls:
            # Before a word is said: a broker that refuses our certificate ends the connection with what it has not
            # read, and the reset may overtake the alert that says why.
            reach.stays_open(tls)
            if way == "websocket":
                _check_upgrade(reach.upgrade_status(tls, host, port, case.timeout_s))
                return f"port {port} grants WebSockets"
            if is_running(case.folders):
                return f"port {port} takes this device; the agent runs, so that is all that was tried"
            _check_reason(reach.mqtt_reason(tls, case.identity.device, case.timeout_s))
            return f"port {port} takes this device"
    except OSError as error:
        raise _why_no_broker(error, host, port) from error


def _check_upgrade(status: int) -> None:
    if status != 101:
        said = f"answers {status} to" if status else "does not answer"
        raise TryAgain(
            f"Whatever is at the broker's WebSocket port {said} the wish for a WebSocket.",
            code="WEBSOCKET_BLOCKED",
            remedy="Have the proxy before it pass WebSockets on, without ending TLS; reports go another way meanwhile.",
        )


def _check_reason(reason: int) -> None:
    if reason:
        trouble = trouble_of(reason)
        raise TryAgain(
            (trouble.sentence if trouble else "The broker refuses this device.") + f" (reason code 0x{reason:02x})",
            code=trouble.code if trouble else "BROKER_REFUSED",
            remedy=trouble.remedy if trouble else "See the broker's log.",
        )


def _why_no_broker(error: OSError, host: str, port: int) -> TryAgain:
    if code := reach.alert_of(error):
        return TryAgain(
            f"The broker refuses this device's certificate: {error}.",
            code=code,
            remedy="Revoked: enrol again with a new token. Expired: the agent renews it over HTTPS. Otherwise the "
            "broker belongs to another server.",
        )
    if (refused := refusal_in(error)) is not None:
        return refused
    return TryAgain(
        f"The broker at {host}:{port} ends the connection: {error}.",
        code="BROKER_REFUSED",
        remedy="A device that is revoked or deleted is turned away so; or the port is not the broker's.",
    )
