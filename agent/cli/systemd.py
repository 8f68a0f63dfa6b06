"""Commands that make the agent a service of systemd: install-service, uninstall-service."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from agent.cli.words import say, tell

if TYPE_CHECKING:
    from agent.service.install import Change


def install_service(options: argparse.Namespace) -> int:
    """Write the unit, its drop-ins and its user; start it only where asked to."""
    from agent.service import install, unit

    plan = unit.Plan(
        program=install.program_of(sys.argv[0]),
        folder=PurePosixPath(options.dir.absolute()),
        user=options.user,
        devices=tuple(install.device_of(name) for name in dict.fromkeys(options.device)),
        memory_max_mib=options.memory_max,
    )
    if options.print:
        made = {str(path): text for path, text in unit.files(plan).items()}
        say(json.dumps({"files": made}) if options.json else "\n".join(f"# {path}\n{made[path]}" for path in made))
        return 0
    _show(install.install(plan, options.root), as_json=options.json)
    if not options.enable:
        tell(
            f"Nothing was started. On the device, as root: systemd-sysusers; chown -R {plan.user}: {plan.folder}; "
            f"systemctl daemon-reload; systemctl enable --now {unit.UNIT}"
        )
        return 0
    install.make_user()
    install.systemctl("daemon-reload")
    install.systemctl("enable", unit.UNIT)
    install.systemctl("restart", unit.UNIT)
    tell(f"{unit.UNIT} runs; see: systemctl status {unit.UNIT}")
    return 0


def uninstall_service(options: argparse.Namespace) -> int:
    """Stop the service and remove what install-service wrote; the agent's folder stays."""
    from agent.service import install, unit

    is_live = options.root == Path("/") and Path("/run/systemd/system").is_dir()
    if is_live and Path("/", *(unit.SYSTEM_FOLDER / unit.UNIT).parts[1:]).exists():
        install.systemctl("disable", "--now", unit.UNIT)
    changes = install.uninstall(options.root)
    _show(changes, as_json=options.json)
    if not changes:
        tell("There was nothing to remove.")
    if is_live:
        install.systemctl("daemon-reload")
    return 0


def _show(changes: Sequence[Change], *, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"changes": [{"path": str(change.path), "what": change.what} for change in changes]}))
        return
    for change in changes:
        say(f"{change.what:9} {change.path}")
