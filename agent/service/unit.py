"""The text of the systemd unit, its drop-ins and its user. Pure: nothing is written here.

The filter of system calls and ``MemoryDenyWriteExecute=`` are tried with every runtime, and ``systemd-analyze`` judges
the whole (tests/integration/systemd): 1.4 of 10, 1.6 with a device's drop-in, by systemd 252. The rest of the sandbox
was never tried under a real systemd. What is left open, and why: the network; ``/proc/meminfo`` and the like, which
conditions are judged by (no ``ProcSubset=pid``); ``@resources``, because workers bound their own memory and CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from bundles.errors import Refused

UNIT = "wavegate-agent.service"
SYSTEM_FOLDER = PurePosixPath("/etc/systemd/system")
SYSUSERS_FILE = PurePosixPath("/etc/sysusers.d/wavegate-agent.conf")
STATE = PurePosixPath("/var/lib")
WATCHDOG_S = 120
"""A line that has not moved for so long hangs: the slowest call on it is an fsync of a worn card, some seconds."""
_OWN = "wavegate-"
_HOMES = ("/home", "/root", "/run/user")
_HIDDEN = ("/tmp", "/var/tmp", "/dev", "/proc", "/sys")
_UNSAFE = frozenset("\n\r\"'\\;%$ \t")
_COMPILING = ("/dev/dri", "/dev/nvidia", "char-drm", "char-nvidia")


@dataclass(frozen=True)
class Device:
    """A device node the agent may use, and the group it belongs to; no group where anybody may, or it is not known."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be installed.

    Attributes:
        program: words that start the agent's command, absolute, such as ``("/opt/wavegate/bin/wavegate-agent",)``.
        folder: the agent's folder, absolute.
        user: whom it runs as.
        devices: what it may use beside ``/dev/null`` and its like.
        memory_max_mib: ``MemoryMax=``; 0 = none.
    """

    program: tuple[str, ...]
    folder: PurePosixPath
    user: str = "wavegate"
    devices: tuple[Device, ...] = ()
    memory_max_mib: int = 0


def files(plan: Plan) -> dict[PurePosixPath, str]:
    """Return every file of ``plan``, by its path on the device.

    Raises:
        Refused: ``UNIT_WORD`` for a name that would mean something else to systemd, ``UNIT_FOLDER`` for a folder that
            the service could not keep, ``UNIT_DEVICE`` for a device that is none.
    """
    names = (name for device in plan.devices for name in (device.name, device.group or "-"))
    for word in (*plan.program, str(plan.folder), plan.user, *names):
        if not word or _UNSAFE & set(word):
            raise Refused(
                f"{word!r} cannot stand in a unit.", code="UNIT_WORD", remedy="Use a name without blanks and signs."
            )
    if any(plan.folder.is_relative_to(hidden) for hidden in _HIDDEN):
        raise Refused(
            f"The service would not find {str(plan.folder)!r}: it has a /tmp of its own.",
            code="UNIT_FOLDER",
            remedy="Give the agent a folder such as /var/lib/wavegate.",
        )
    made = {SYSTEM_FOLDER / UNIT: unit_text(plan)}
    for device in plan.devices:
        made[SYSTEM_FOLDER / f"{UNIT}.d" / _drop_in_name(device.name)] = device_text(device)
    if plan.memory_max_mib:
        made[SYSTEM_FOLDER / f"{UNIT}.d" / f"{_OWN}memory.conf"] = f"[Service]\nMemoryMax={plan.memory_max_mib}M\n"
    if plan.user != "root":
        # The group of the journal's readers is there on most systems, and the service would not start without it.
        made[SYSUSERS_FILE] = f'g systemd-journal - -\nu {plan.user} - "Wavegate agent" {plan.folder} -\n'
    return made


def unit_text(plan: Plan) -> str:
    """Return the unit."""
    command = " ".join((*plan.program, "run", "--dir", str(plan.folder), "--verbose"))
    # What lies in somebody's home must at least be readable; the folder is opened by ReadWritePaths.
    places = (PurePosixPath(plan.program[0]), plan.folder)
    is_home = any(place.is_relative_to(home) for place in places for home in _HOMES)
    # The kernel's lines on lack of memory and on heat, for diagnoses; root reads them anyway.
    reader = "" if plan.user == "root" else "SupplementaryGroups=systemd-journal\n"
    return f"""\
# Written by: wavegate-agent install-service. Change it with drop-ins: systemctl edit {UNIT}
[Unit]
Description=Wavegate agent
After=network.target time-sync.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# The agent finds the journal behind its stderr, and sends its fields there.
StandardError=journal
Restart=always
RestartSec=5
WatchdogSec={WATCHDOG_S}
# The first start tries every runtime out in children of its own.
TimeoutStartSec=300
# The agent is done within 5 s.
TimeoutStopSec=10
KillMode=mixed
OOMPolicy=continue

User={plan.user}
Group={plan.user}
{reader}{_folder_text(plan.folder)}
UMask=0077

CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome={"read-only" if is_home else "yes"}
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
PrivateIPC=yes
ProtectHostname=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def device_text(device: Device) -> str:
    """Return the drop-in that opens one device node, or a class of them such as ``char-drm``.

    Raises:
        Refused: ``UNIT_DEVICE``.
    """
    path = PurePosixPath(device.name)
    is_node = path.is_relative_to("/dev") and len(path.parts) > 2 and ".." not in path.parts
    if not is_node and not device.name.startswith("char-"):
        raise Refused(
            f"{device.name!r} is no device.",
            code="UNIT_DEVICE",
            remedy="Name one under /dev, such as /dev/dri/renderD128, or a class of them, such as char-drm.",
        )
    lines = ["[Service]", "PrivateDevices=no", "DevicePolicy=closed", f"DeviceAllow={device.name} rw"]
    if device.group:
        lines += [f"SupplementaryGroups={device.group}"]
    if device.name.startswith(_COMPILING):
        lines += ["# Drivers of graphics processors write code and run it.", "MemoryDenyWriteExecute=no"]
    return "\n".join(lines) + "\n"


def is_own_drop_in(name: str) -> bool:
    """Whether a drop-in's file name is one that ``files`` gives."""
    return name.startswith(_OWN) and name.endswith(".conf")


def _folder_text(folder: PurePosixPath) -> str:
    if folder.is_relative_to(STATE) and folder != STATE:
        # systemd makes it, and gives all of it to the user.
        return f"StateDirectory={folder.relative_to(STATE)}\nStateDirectoryMode=0750"
    return f"ReadWritePaths={folder}"


def _drop_in_name(device: str) -> str:
    return _OWN + "".join(c if c.isalnum() else "-" for c in device.removeprefix("/dev/")) + ".conf"
