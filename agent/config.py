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

from bundles.digest import is_sha256
from bundles.errors import AskPerson
from bundles.manifest import Channel

Inference = Literal["worker", "inproc"]


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
        mqtt: whether to use the broker the server named; without it the agent polls over HTTPS.
        proxy: URL of an HTTP CONNECT proxy for HTTPS; empty = none.
        heartbeat_s: heartbeat until a desired document brings its profile.
        poll_s: the same for polling; 0 = as the server said at enrolment.
        spool_max_bytes: bound of the offline queue.
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
    mqtt: bool = True
    proxy: str = ""
    heartbeat_s: float = 60.0
    poll_s: float = 0.0
    spool_max_bytes: int = 8 * 1024 * 1024
    stream: Stream = Stream()


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
        values[key] = _stream(path, value) if key == "stream" else _checked(path, key, value)
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


def _checked(path: Path, key: str, value: Any) -> Any:
    words: dict[str, tuple[str, ...]] = {
        "channel": get_args(Channel),
        "inference": get_args(Inference),
    }
    if key in words:
        if value not in words[key]:
            _refuse(path, f"has {key} = {value!r}, which is none of {', '.join(words[key])}")
        return value
    if key == "labels":
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            _refuse(path, "needs [labels] to be a table of texts")
        return dict(value)
    if key == "runtimes":
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            _refuse(path, "needs runtimes to be a list of texts")
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
        if not _is_number(value) or value < 0 or (value == 0 and key != "poll_s"):
            _refuse(path, f"needs {key} to be a positive number")
        return type(default)(value)
    if not isinstance(value, str):
        _refuse(path, f"needs {key} to be text")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(path: Path, what: str) -> NoReturn:
    raise AskPerson(f"{path.name} {what}.", code="CONFIG_INVALID", remedy=f"Edit {path}.")
