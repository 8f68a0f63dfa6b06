"""What ``wavegate-agent selftest`` looks at: the folder as it lies, runtimes, the way to the server. Changes nothing.

Works beside a running agent: it reads, and takes no lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.client import Client
from agent.config import Folders, load_config
from agent.https import Door, open_client
from agent.identity import load_identity
from agent.runner.wiring import probe_runtimes, read_bootstrap_root
from agent.store import LocalFileSystem, Store
from bundles.errors import AskPerson, TryAgain, WavegateError

CLOCK_TOLERANCE_S = 600


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    is_ok: bool
    detail: str


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
            findings.append(Finding(what, False, str(error)))
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
    return ", ".join(intact) + " intact" if intact else "nothing installed"


def _server(folders: Folders) -> str:
    identity = load_identity(folders.identity)
    with open_client(identity.enrolment.url, identity.server_context()) as client:
        skew_s = abs(time.time() - Door(client).time_ms() / 1000)
    if skew_s > CLOCK_TOLERANCE_S:
        raise TryAgain(
            f"This device's clock differs from the server's by {skew_s:.0f} s.",
            code="CLOCK_SKEW",
            remedy="Set the clock, or let NTP do so; reports are filed by the server's clock meanwhile.",
        )
    return f"answers at {identity.enrolment.url}"


def _agent(folders: Folders) -> str:
    with Client(folders.socket, timeout_s=5.0) as client:
        names = [entry["name"] for entry in client.models()]
    return f"runs, with {', '.join(names) or 'no model'}"
