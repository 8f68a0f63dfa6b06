"""What ``wavegate-agent selftest`` looks at: the folder as it lies, runtimes, the way to the server. Changes nothing.

Works beside a running agent: it reads, and takes no lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.client import Client
from agent.config import Folders, load_config
from agent.https import Door, open_client
from agent.identity import load_identity
from agent.proxy import read_proxies
from agent.runner.credentials import Credentials, read_extra_ca
from agent.runner.factory import fitting_files
from agent.runner.wiring import lock_folder, probe_runtimes, read_bootstrap_root
from agent.store import LocalFileSystem, Store
from bundles.errors import AskPerson, TryAgain, WavegateError

CLOCK_TOLERANCE_S = 600


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: it was.
        is_ok: whether it is as it should be.
        detail: in words.
        code: stable, of what is wrong; empty where nothing is.
        remedy: what a person can do about it.
    """

    what: str
    is_ok: bool
    detail: str
    code: str = ""
    remedy: str = ""


def selftest(folder: Path) -> list[Finding]:
    """Look at everything, whatever fails."""
    folders = Folders(folder)
    checks: dict[str, Callable[[Folders], str]] = {
        "settings": _settings,
        "identity": _identity,
        "root of trust": _root,
        "runtimes": _runtimes,
        "store": _store,
        "server": _server,
        "agent": _agent,
    }
    findings = []
    for what, check in checks.items():
        try:
            findings.append(Finding(what, True, check(folders)))
        except WavegateError as error:
            findings.append(Finding(what, False, error.sentence, error.code, error.remedy or ""))
    return findings


def _settings(folders: Folders) -> str:
    config = load_config(folders.config)
    return f"hardware {config.hardware or '-'}, channel {config.channel} and above"


def _identity(folders: Folders) -> str:
    identity = load_identity(folders.identity)
    return f"{identity.device}, certificate until {identity.not_after:%Y-%m-%d}"


def _root(folders: Folders) -> str:
    return f"{len(read_bootstrap_root(folders.bootstrap_root))} bytes"


def _runtimes(folders: Folders) -> str:
    reports = probe_runtimes(folders.root, load_config(folders.config).runtimes)
    usable = [f"{report.backend} {report.version}" for report in reports if report.usable]
    if not usable:
        raise AskPerson(
            "No inference runtime works on this device.",
            code="BACKEND_UNAVAILABLE",
            remedy="; ".join(report.reason for report in reports if report.reason),
        )
    return ", ".join(usable)


def _store(folders: Folders) -> str:
    store = Store(LocalFileSystem(folders.root))
    intact = []
    for model in store.models():
        if sha256 := store.active(model):
            store.check_slot(sha256)
            intact.append(f"{model} {store.manifest(sha256).version}")
        if factory := store.factory(model):  # its damage is told before it is needed
            hardware = load_config(folders.config).hardware
            store.check_factory(factory.sha256, fitting_files(store.manifest(factory.sha256), hardware))
            intact.append(f"{model} {factory.version} (factory)")
    return ", ".join(intact) + " intact" if intact else "nothing installed"


def _server(folders: Folders) -> str:
    identity = load_identity(folders.identity)
    config = load_config(folders.config)
    credentials, url = Credentials(identity, extra=read_extra_ca(config.extra_ca)), identity.enrolment.url
    proxies = read_proxies(config.proxy, config.no_proxy, os.environ)
    with open_client(url, credentials.server_context(), proxy=proxies.to_url(url)) as client:
        check_clock(Door(client).time_ms(), time.time())
    return f"answers at {url}"


def check_clock(server_ms: int, now_s: float) -> None:
    """Check that this device's clock is right, as far as the server's is.

    Raises:
        TryAgain: ``CLOCK_SKEW``.
    """
    skew_s = abs(now_s - server_ms / 1000)
    if skew_s > CLOCK_TOLERANCE_S:
        raise TryAgain(
            f"This device's clock differs from the server's by {skew_s:.0f} s.",
            code="CLOCK_SKEW",
            remedy="Set the clock, or let NTP do so; reports are filed by the server's clock meanwhile.",
        )


def is_running(folders: Folders) -> bool:
    """Whether an agent runs in this folder."""
    if not folders.lock.exists():
        return False
    try:
        os.close(lock_folder(folders.lock))
    except AskPerson:
        return True
    return False


def _agent(folders: Folders) -> str:
    with Client(folders.socket, timeout_s=5.0) as client:
        names = [entry["name"] for entry in client.models()]
    return f"runs, with {', '.join(names) or 'no model'}"
