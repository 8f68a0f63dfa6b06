"""The seam to inference runtimes: two small protocols, and the registry of who implements them.

A backend is named by the word its bundles' variants use (``onnxruntime``, ``litert``, ``tflite``, ``fake``) and its
module is imported when it is first opened, so a device without a runtime still starts. Sessions speak the contract's
tensor names and dtypes; what the model file calls its tensors, and how it quantises them, stays behind this seam.
A session is used by one thread at a time, except ``cancel``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from agent.errors import BackendUnavailable, ModelRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensors = Mapping[str, "NDArray[Any]"]
"""Tensor name -> array."""


class Accelerator(msgspec.Struct, frozen=True, array_like=True):
    """Something a backend can run on.

    Attributes:
        id: the word used to ask for it, such as ``cpu`` or ``cuda``.
        kind: ``cpu``, ``gpu`` or ``npu``.
        usable: a model was constructed and run on it just now.
        reason: why not, in one sentence; empty when usable.
    """

    id: str
    kind: str
    usable: bool
    reason: str = ""


class Port(msgspec.Struct, frozen=True, array_like=True):
    """One tensor as callers see it.

    Attributes:
        name: the contract's name, or the model file's where no contract was given.
        dtype: numpy's name of the dtype.
        shape: None = any length.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Io(msgspec.Struct, frozen=True, array_like=True):
    """The inputs and outputs of a session, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """Where a session really runs, read back from the runtime after loading.

    Attributes:
        accelerator: id of the accelerator that carries the model.
        nodes: parts of the graph by execution provider or delegate, as far as the runtime tells.
    """

    accelerator: str
    nodes: dict[str, int]


class LoadOptions(msgspec.Struct, frozen=True, array_like=True):
    """How to load a model.

    Attributes:
        inputs: the contract's inputs; empty = take the model's own names and dtypes.
        outputs: the contract's outputs; empty = the model's own.
        threads: threads within one operator. One by default: two spinning threads cost 2.4 times the CPU.
    """

    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    threads: int = 1


class Session(Protocol):
    """One loaded model."""

    def io(self) -> Io:
        """Return inputs and outputs as callers see them."""
        ...

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run once; names and dtypes as in ``io()``.

        Raises:
            InputRefused: a name, dtype or shape the model cannot take.
            RunFailed: the runtime reported an error.
        """
        ...

    def placement(self) -> Placement:
        """Return where the model really runs."""
        ...

    def cancel(self) -> None:
        """Ask a run in progress (in another thread) to stop; does nothing where the runtime cannot."""
        ...

    def close(self) -> None:
        """Free the model. Being told twice is normal."""
        ...


class Backend(Protocol):
    """One inference runtime."""

    name: str
    formats: tuple[str, ...]
    """File suffixes it reads, such as ``.onnx``."""

    def probe(self) -> list[Accelerator]:
        """Construct and run a tiny model on each accelerator. May kill its process: call it in a child."""
        ...

    def load(self, path: Path, accelerator: str, options: LoadOptions) -> Session:
        """Load a model file.

        Raises:
            ModelRefused: the file, the accelerator or the promised tensors do not fit.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """Where a backend lives.

    Attributes:
        target: ``module:class``.
        distribution: the installed distribution that carries the runtime; empty = part of the agent.
        remedy: what to show when it cannot be imported.
    """

    target: str
    distribution: str
    remedy: str


REGISTRY: Mapping[str, Entry] = {
    "onnxruntime": Entry(
        "agent.inference.onnx:OnnxBackend",
        "onnxruntime",
        "Install the runtime with: pip install 'wavegate[agent]' (no wheel exists for armv7l).",
    ),
    "litert": Entry(
        "agent.inference.litert:LiteRtBackend",
        "ai-edge-litert",
        "Install the runtime with: pip install 'wavegate[agent]' (no wheel exists for armv7l).",
    ),
    "tflite": Entry(
        "agent.inference.tflite:TfliteBackend",
        "tflite-runtime",
        "tflite-runtime needs Linux, Python < 3.12 and numpy < 2; elsewhere use the litert runtime.",
    ),
    "fake": Entry("agent.inference.fake:FakeBackend", "", "The fake runtime is part of the agent; reinstall it."),
}
REAL_BACKENDS: tuple[str, ...] = ("onnxruntime", "litert", "tflite")
"""Names a device probes; ``fake`` exists for tests only."""

_ACCELERATOR_KINDS = {"cpu": "cpu", "xnnpack": "cpu", "openvino": "cpu", "qnn": "npu", "vitisai": "npu"}


def accelerator_kind(accelerator: str) -> str:
    """Return ``cpu``, ``gpu`` or ``npu`` for an accelerator's id; unknown ones are taken for GPUs."""
    return _ACCELERATOR_KINDS.get(accelerator, "gpu")


def open_backend(name: str, registry: Mapping[str, Entry] = REGISTRY) -> Backend:
    """Import and construct the backend called ``name``.

    Raises:
        BackendUnavailable: the name is unknown, or its runtime cannot be imported.
    """
    entry = registry.get(name)
    if entry is None:
        raise BackendUnavailable(
            f"No inference runtime is called {name!r}.",
            remedy=f"Use one of: {', '.join(registry)}.",
            details={"backend": name},
        )
    module, _, cls = entry.target.partition(":")
    try:
        return cast(Backend, getattr(importlib.import_module(module), cls)())
    except (ImportError, AttributeError, OSError) as error:
        # AttributeError: tflite-runtime beside numpy 2 fails with "_ARRAY_API not found".
        raise BackendUnavailable(
            f"The runtime {name!r} cannot be imported: {str(error).splitlines()[0]}.",
            remedy=entry.remedy,
            details={"backend": name},
        ) from error


def require_format(backend: Backend, path: Path) -> None:
    """Check that the file exists and is of a format the backend reads.

    Raises:
        ModelRefused: ``MODEL_MISSING`` or ``MODEL_FORMAT``.
    """
    if path.suffix not in backend.formats:
        raise ModelRefused(
            f"{path.name!r} is not a file that {backend.name} reads.",
            code="MODEL_FORMAT",
            remedy=f"{backend.name} reads {', '.join(backend.formats)} files.",
        )
    if not path.is_file():
        raise ModelRefused(f"There is no model file {path.name!r}.", code="MODEL_MISSING", remedy="Stage it again.")


def probe_model(name: str) -> Path:
    """Return the path of a tiny model shipped with the agent, such as ``tiny.onnx``."""
    return Path(__file__).parent / "probe_models" / name
