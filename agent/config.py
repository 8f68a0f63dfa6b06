"""What a person decides about one agent, as ``DIR/config.toml``, and where things lie in ``DIR``.

Facts that the server told (id, broker) are in the identity folder, not here. An unknown key is refused by its name,
so that a misspelt one is not a setting that silently does nothing.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from agent.conditions import Limits, Maintenance, Metered
from agent.core.route import Setting
from agent.lock import NAME
from bundles.digest import is_sha256
from bundles.errors import AskPerson, Refused
from bundles.manifest import Channel

Inference = Literal["worker", "inproc"]
LogForm = Literal["auto", "text", "json", "journal"]
BlobSource = Literal["https", "mqtt"]


@dataclass(frozen=True)
class Folders:
    """Where one agent keeps what it knows; everything lies under ``root``."""

    root: Path

    @property
    def config(self) -> Path:
        """``config.toml``: written by a person, or by ``enroll`` from its flags."""
        return self.root / "config.toml"

    @property
    def identity(self) -> Path:
        """Key, certificate, pinned server CA."""
        return self.root / "identity"

    @property
    def trust(self) -> Path:
        """Durable trust metadata and floors."""
        return self.root / "trust"

    @property
    def bootstrap_root(self) -> Path:
        """The root of trust given at enrolment; never written again."""
        return self.root / "root.json"

    @property
    def spool(self) -> Path:
        """Reports on their way up."""
        return self.root / "spool.db"

    @property
    def session(self) -> Path:
        """The session number, which rises with every start."""
        return self.root / "session"

    @property
    def socket(self) -> Path:
        """The local door."""
        return self.root / "socket"

    @property
    def control(self) -> Path:
        """The owner's door: roll back."""
        return self.root / "control"

    @property
    def status(self) -> Path:
        """The newest status, for ``wavegate-agent status``."""
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        """Held by the running agent: one agent a folder."""
        return self.root / "agent.lock"

    @property
    def update_lock(self) -> Path:
        """Held by applications that must not be disturbed (``agent.Client.update_lock``)."""
        return self.root / NAME

    @property
    def log(self) -> Path:
        """The newest file of the log's ring."""
        return self.root / "log" / "agent.log"

    @property
    def commands(self) -> Path:
        """What became of the newest commands of the control plane."""
        return self.root / "commands.json"

    @property
    def downloads(self) -> Path:
        """What today's downloads have cost, where there is a budget."""
        return self.root / "downloads.json"

    @property
    def lost_downloads(self) -> Path:
        """What was fetched in vain, for files that have not come yet."""
        return self.root / "downloads-lost.json"

    @property
    def blur(self) -> Path:
        """While this file exists, the built-in stream is blurred."""
        return self.root / "stream.blur"


@dataclass(frozen=True)
class Stream:
    """A built-in source of real inputs, fed through the agent's own local door.

    Attributes:
        file: ``.npz`` with ``x`` uint8 [M, 8, 8] and ``y`` uint8 [M]; empty = no stream.
        rate_hz: inputs a second.
    """

    file: str = ""
    rate_hz: float = 5.0


@dataclass(frozen=True)
class AgentConfig:
    """One agent's settings.

    Attributes:
        hardware: hardware class, for variants and strata.
        labels: traits set on the device, such as ``site``.
        channel: the lowest channel this device accepts (dev < canary < prod).
        factory: digests (sha256 of ``bundle.json``) of the bundles this device was made with: on-call revocation does
            not reach them, only the release managers' targets role does, so that there is always one to fall back on.
        allow_demo_keys: take a root of trust that a demo made, whose keys lie unencrypted on some disk. Never set it
            on a device that matters.
        runtimes: usable runtimes in order of preference; empty = every one the probe finds usable.
        commit_offline: whether a healthy probation ends in a commit even where the control plane was never heard since.
        inference: ``worker`` (isolated), or ``inproc`` where memory allows nothing else.
        transport: how to reach the control plane: ``auto`` = over MQTT, by TCP or else by WebSocket, and by HTTPS
            polling where neither works; ``mqtt`` or ``websocket`` = that one alone of the two; ``https`` = no broker.
        mqtt: the older word for it: false is ``transport = "https"``.
        proxy: URL of a proxy (``http``, ``https``, ``socks5``, ``socks5h``) for everything; ``environment`` = as
            HTTPS_PROXY and NO_PROXY say; empty = none.
        no_proxy: hosts, suffixes and networks that are reached without it.
        extra_ca: PEM file of CAs whose certificates are taken for the server's over HTTPS, beside the pinned ones: of a
            proxy that inspects TLS. No bundle is trusted by it.
        heartbeat_s: heartbeat until a desired document brings its profile.
        poll_s: the same for polling; 0 = as the server said at enrolment.
        spool_max_bytes: bound of the offline queue.
        reserve_mib: what no download may use of the disk; kept free for journals, the spool and the application.
        rate_limit_kib_s: how fast blobs may arrive; 0 = as fast as they come.
        byte_budget_mib_day: how much may be downloaded in a day (UTC); 0 = as much as is needed.
        blob_sources: where blobs come from, in order: ``https`` (the server, and the object store it names), ``mqtt``
            (in chunks over the broker).
        log: form of the log on stderr (``text``, ``json``), or ``journal`` for systemd's with its fields; ``auto``:
            the journal's where stderr is connected to it, as in a service, else ``text``.
        maintenance: windows in which a release may be activated; none = at any time.
        min_battery_percent: below it, and not on mains, nothing is downloaded or activated; 0 = whatever it says.
        metered: whether the network is metered: ``no``, ``yes``, or ``auto`` = what NetworkManager says.
        metered_download: whether releases are fetched over a metered network all the same.
        stream: the built-in stream.
    """

    hardware: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    channel: Channel = "prod"
    factory: tuple[str, ...] = ()
    allow_demo_keys: bool = False
    runtimes: tuple[str, ...] = ()
    commit_offline: bool = False
    inference: Inference = "worker"
    transport: Setting = "auto"
    mqtt: bool = True
    proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    extra_ca: str = ""
    heartbeat_s: float = 60.0
    poll_s: float = 0.0
    spool_max_bytes: int = 8 * 1024 * 1024
    reserve_mib: int = 64
    rate_limit_kib_s: int = 0
    byte_budget_mib_day: int = 0
    blob_sources: tuple[BlobSource, ...] = ("https", "mqtt")
    log: LogForm = "auto"
    maintenance: tuple[Maintenance, ...] = ()
    min_battery_percent: int = 0
    metered: Metered = "auto"
    metered_download: bool = False
    stream: Stream = Stream()

    def limits(self) -> Limits:
        """Return what may put an update off.

        Raises:
            WindowRefused: a window makes no sense; those read by ``load_config`` do.
        """
        windows = tuple(entry.window() for entry in self.maintenance)
        return Limits(windows, self.min_battery_percent, self.metered, self.metered_download)

    @property
    def route(self) -> Setting:
        """``transport``, unless the older word says that there is to be no broker."""
        return self.transport if self.mqtt else "https"


def load_config(path: Path) -> AgentConfig:
    """Read ``config.toml``; a file that does not exist is all defaults.

    Raises:
        AskPerson: ``CONFIG_INVALID``, naming the key.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return AgentConfig()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        _refuse(path, f"cannot be read: {error}")
    known = {f.name for f in fields(AgentConfig)}
    for key in raw:
        if key not in known:
            _refuse(path, f"has an unknown key {key!r}")
    values: dict[str, Any] = {}
    for key, value in raw.items():
        tables = {"stream": _stream, "maintenance": _maintenance}
        values[key] = tables[key](path, value) if key in tables else _checked(path, key, value)
    return AgentConfig(**values)


def dump_config(config: AgentConfig) -> str:
    """Return ``config`` as TOML, defaults left out; ``load_config`` reads it back unchanged."""
    lines, tables = [], []
    default = AgentConfig()
    for f in fields(AgentConfig):
        value = getattr(config, f.name)
        if value == getattr(default, f.name):
            continue
        if f.name == "labels":
            tables += ["", "[labels]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in sorted(value.items()))]
        elif f.name == "stream":
            tables += ["", "[stream]", f"file = {json.dumps(value.file)}", f"rate_hz = {value.rate_hz!r}"]
        elif f.name == "maintenance":
            for entry in value:
                tables += ["", "[[maintenance]]", f"start = {json.dumps(entry.start)}", f"hours = {entry.hours!r}"]
                tables.append(f"tz = {json.dumps(entry.tz)}")
        else:
            lines.append(f"{f.name} = {json.dumps(value)}")  # JSON's strings, numbers, booleans and arrays are TOML
    return "\n".join([*lines, *tables]) + "\n"


def _stream(path: Path, value: object) -> Stream:
    if not isinstance(value, dict) or not set(value) <= {"file", "rate_hz"}:
        _refuse(path, "needs [stream] to be a table of file and rate_hz")
    file, rate_hz = value.get("file", ""), value.get("rate_hz", Stream.rate_hz)
    if not isinstance(file, str) or not _is_number(rate_hz) or not 0 < rate_hz <= 1000:
        _refuse(path, "needs stream.file to be text and stream.rate_hz a number in (0, 1000]")
    return Stream(file, float(rate_hz))


def _maintenance(path: Path, value: object) -> tuple[Maintenance, ...]:
    windows = []
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict) or not {"start", "hours"} <= set(entry) <= {"start", "hours", "tz"}:
            _refuse(path, "needs each [[maintenance]] to be a table of start, hours and tz")
        start, hours, tz = entry["start"], entry["hours"], entry.get("tz", "UTC")
        if not isinstance(start, str) or not _is_number(hours) or not isinstance(tz, str):
            _refuse(path, "needs maintenance.start and .tz to be text, and .hours a number")
        window = Maintenance(start, hours, tz)
        try:
            window.window()
        except Refused as error:
            _refuse(path, f"has a maintenance window that cannot be kept: {error.sentence}")
        windows.append(window)
    return tuple(windows)


def _checked(path: Path, key: str, value: Any) -> Any:
    words: dict[str, tuple[str, ...]] = {
        "channel": get_args(Channel),
        "inference": get_args(Inference),
        "log": get_args(LogForm),
        "transport": get_args(Setting),
        "metered": get_args(Metered),
    }
    if key in words:
        if value not in words[key]:
            _refuse(path, f"has {key} = {value!r}, which is none of {', '.join(words[key])}")
        return value
    if key == "labels":
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            _refuse(path, "needs [labels] to be a table of texts")
        return dict(value)
    if key in ("runtimes", "no_proxy"):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            _refuse(path, f"needs {key} to be a list of texts")
        return tuple(value)
    if key == "blob_sources":
        known = get_args(BlobSource)
        if not isinstance(value, list) or not value or len(set(value)) < len(value) or not set(value) <= set(known):
            _refuse(path, f"needs blob_sources to be a list of {', '.join(known)}, each once")
        return tuple(value)
    if key == "factory":
        if not isinstance(value, list) or not all(isinstance(v, str) and is_sha256(v) for v in value):
            _refuse(path, "needs factory to be a list of sha256 digests (64 hex digits)")
        return tuple(value)
    default = getattr(AgentConfig, key)
    if isinstance(default, bool) or isinstance(value, bool):
        if type(default) is not type(value):
            _refuse(path, f"has {key} = {value!r}, which is not of the right kind")
        return value
    if _is_number(default):
        if not _is_number(value) or value < 0 or (value == 0 and default != 0):
            _refuse(path, f"needs {key} to be a positive number")
        if key == "min_battery_percent" and value > 100:
            _refuse(path, f"needs {key} to be at most 100")
        return type(default)(value)
    if not isinstance(value, str):
        _refuse(path, f"needs {key} to be text")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(path: Path, what: str) -> NoReturn:
    raise AskPerson(f"{path.name} {what}.", code="CONFIG_INVALID", remedy=f"Edit {path}.")
