"""Commands that make or run devices: enroll, run, simulate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from agent.cli.words import say, tell
from bundles.errors import AskPerson, Refused


def run(options: argparse.Namespace) -> int:
    """Run the agent until a signal stops it, telling the service manager how it stands."""
    import dataclasses
    import faulthandler
    import os

    from agent.config import Folders, load_config
    from agent.logs import set_up_logging
    from agent.redact import secrets_of
    from agent.runner.wiring import STOP_S, Agent
    from agent.service.notify import Notifier, status_line, watchdog_period_s
    from agent.service.watchdog import Watchdog

    folders = Folders(options.dir)
    config = load_config(folders.config)
    set_up_logging(
        config.log,
        is_verbose=options.verbose,
        ring=folders.log if options.dir.is_dir() else None,
        secrets=secrets_of(dataclasses.asdict(config)) | secrets_of(os.environ),
    )
    faulthandler.enable()  # the watchdog ends a line that hangs with SIGABRT: the log then says where it hung
    notifier = Notifier(os.environ.pop("NOTIFY_SOCKET", ""))  # ours alone, and not the workers'
    notifier.send(status_line("Trying the runtimes of this device"))
    stop = _on_signal()
    agent = Agent(options.dir, config)
    agent.start()
    tell(f"The agent {agent.device.me.device} runs; its socket is {agent.folders.socket}.")
    if _is_answering(folders.socket, stop):
        notifier.send("READY=1")
    Watchdog(agent.schedule, notifier, watchdog_period_s(os.environ, os.getpid()), agent.device.summary).start()
    stop.wait()
    notifier.send("STOPPING=1", status_line("Stopping"))
    if not agent.stop(STOP_S):
        tell(f"Not everything ended within {STOP_S} s; what hangs ends with this process.")
        sys.stderr.flush()
        os._exit(0)  # a thread that hangs in a library would keep the interpreter from its own end
    return 0


def _is_answering(path: Path, stop: Any) -> bool:
    """Return once the local door answers; False where a signal came first."""
    from agent.client import Client
    from bundles.errors import WavegateError

    while not stop.is_set():
        try:
            with Client(path, timeout_s=5.0) as client:
                client.models()
            return True
        except WavegateError:
            stop.wait(0.1)
    return False


def enroll(options: argparse.Namespace) -> int:
    """Give the device an identity, its root of trust and its settings."""
    from agent.config import AgentConfig, Folders, Stream, dump_config
    from agent.identity import write_durably
    from agent.runner.credentials import enroll_over_https

    folders = Folders(options.dir)
    config = AgentConfig(
        hardware=options.hardware,
        labels=dict(_pair(text) for text in options.label),
        channel=options.channel,
        allow_demo_keys=options.allow_demo_keys,
        runtimes=tuple(options.runtime),
        mqtt=not options.no_mqtt,
        stream=Stream(str(Path(options.stream).resolve()) if options.stream else "", options.rate_hz),
    )
    root = _read(options.root, "root of trust")
    _check_root(root, allow_demo=options.allow_demo_keys)
    identity = enroll_over_https(
        folders.identity,
        url=options.url,
        token=_token(options.token),
        server_ca_pem=_read(options.ca, "server CA").decode("ascii", "replace"),
        name=options.name,
        hardware=config.hardware,
        labels=dict(config.labels),
        serial=options.serial,
        waiting=(lambda error: tell(str(error))) if options.wait else None,
    )
    if not folders.bootstrap_root.exists():  # never replaced: it is what this device trusts from the start
        write_durably(folders.bootstrap_root, root)
    if not folders.config.exists():
        write_durably(folders.config, dump_config(config).encode())
    if options.factory:
        from agent.runner.factory import install_factory

        for file in options.factory:
            install_factory(options.dir, file)
    say(identity.device)
    return 0


def simulate(options: argparse.Namespace) -> int:
    """Run virtual devices until a signal, ``stop`` or the end of the input."""
    from agent.virtual.fleet import Fleet, FleetPlan, Hardware
    from agent.virtual.steer import answer_with, steer

    _log(options.verbose)
    kinds = [text.partition(":") for text in options.hardware.split(",")]
    plan = FleetPlan(
        folder=options.dir,
        count=options.count,
        prefix=options.prefix,
        first=options.first,
        url=options.url,
        server_ca_pem=_read(options.ca, "server CA").decode("ascii", "replace"),
        root=_read(options.root, "root of trust"),
        token=_token(options.token),
        hardware=[Hardware(name, runtime or "onnxruntime") for name, _, runtime in kinds],
        stream=options.stream,
        rate_hz=options.rate_hz,
        seed=options.seed,
        labels=tuple((name, tuple(values.split(","))) for name, values in map(_pair, options.label)),
        uses_mqtt=not options.no_mqtt,
        allow_demo_keys=options.allow_demo_keys,
    )
    _check_root(plan.root, allow_demo=plan.allow_demo_keys)
    stop = _on_signal()
    fleet = Fleet(plan)
    answer_with(sys.stdout, {"ok": True, "command": "start", "devices": list(fleet.devices), "seed": plan.seed})
    fleet.start()

    def follow() -> None:
        steer(fleet, sys.stdin, sys.stdout)
        stop.set()

    import threading

    threading.Thread(target=follow, name="steer", daemon=True).start()
    stop.wait()
    fleet.stop()
    return 0


def _on_signal() -> Any:
    """Return an event that SIGTERM and SIGINT set."""
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _log(is_verbose: bool) -> None:
    import logging

    level = logging.INFO if is_verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _token(text: str) -> str:
    """Return the token; from standard input it shows in no list of processes."""
    return sys.stdin.readline().strip() if text == "-" else text


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AskPerson(
            f"The {what} {str(path)!r} cannot be read: {error.strerror}.",
            code="FILE_MISSING",
            remedy="Give the file that the server or the key ceremony wrote.",
        ) from error


def _check_root(data: bytes, *, allow_demo: bool) -> None:
    """Check that a file is root metadata that this device may take, before one is enrolled that trusts nothing."""
    import msgspec

    from bundles.trust.roles import DEMO_FIELD

    try:
        signed = msgspec.json.decode(data, type=dict[str, Any]).get("signed")
    except (msgspec.DecodeError, UnicodeDecodeError):
        signed = None
    if not isinstance(signed, dict) or signed.get("_type") != "root":
        raise AskPerson(
            "The file given with --root is no root metadata.",
            code="ROOT_INVALID",
            remedy="Give the root.json of the key ceremony.",
        )
    if signed.get(DEMO_FIELD) and not allow_demo:
        raise AskPerson(
            "The root given with --root is a demo's: its keys lie unencrypted on some disk.",
            code="TRUST_DEMO_KEYS",
            remedy="Hold a ceremony of your own with `wavegate trust init`, or say --allow-demo-keys for a demo.",
        )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Refused(f"{text!r} is not NAME=VALUE.", code="USAGE", remedy="Write it as --label site=north.")
    return name, value
