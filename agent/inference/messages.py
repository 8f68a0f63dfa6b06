"""What the agent and a process holding a model say to one another; ``frames`` says how it travels.

The first message of a worker is ``Hello`` with the version of this protocol; another version is refused. After that
the agent asks and the other side answers, one at a time, with the message named in each docstring or ``Failed``.
Every message is a tagged MessagePack array. A new version may append fields with defaults; it never reorders them.
"""

from __future__ import annotations

import msgspec

from agent.inference.backend import Accelerator, Io, LoadOptions, Placement

PROTOCOL_VERSION = 1

Shape = tuple[int, ...]
Layout = list[tuple[str, Shape]]
"""Dtype and shape of each tensor in a frame's body, in order."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """A worker's first message."""

    protocol: int
    pid: int
    python: str


class Limits(msgspec.Struct, frozen=True, array_like=True, tag="limits"):
    """First message to a throwaway child: resource limits, 0 = none."""

    address_space_bytes: int = 0
    cpu_s: int = 0


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Load a model."""

    backend: str
    path: str
    accelerator: str
    options: LoadOptions


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """A model is loaded."""

    io: Io
    placement: Placement
    load_ms: float


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """Run once; tensors in the order of ``Loaded.io.inputs``."""

    tensors: Layout


class Ran(msgspec.Struct, frozen=True, array_like=True, tag="ran"):
    """The answer; tensors in the order of ``Loaded.io.outputs``; the latency is that of the session alone."""

    latency_ns: int
    tensors: Layout


class Examine(msgspec.Struct, frozen=True, array_like=True, tag="examine"):
    """Import a backend and let it run its tiny model."""

    backend: str


class Examined(msgspec.Struct, frozen=True, array_like=True, tag="examined"):
    """What a backend can run on."""

    accelerators: list[Accelerator]


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag="spawn"):
    """To a fork server: fork a worker that serves the attached socket."""


class Spawned(msgspec.Struct, frozen=True, array_like=True, tag="spawned"):
    """A worker was forked."""

    pid: int


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """To a fork server: kill that worker if it lives, and collect it."""

    pid: int


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """A worker is gone; negative = the signal that ended it, as ``subprocess`` has it."""

    returncode: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """An error of the family, carried over; ``family`` is a class name the other side knows."""

    family: str
    code: str
    sentence: str
    remedy: str


Message = Hello | Limits | Load | Loaded | Run | Ran | Examine | Examined | Spawn | Spawned | End | Ended | Failed
