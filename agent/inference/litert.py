"""The LiteRT backend (``ai-edge-litert``), the successor of tflite-runtime: same files, int8 through XNNPACK.

Only the CPU is offered here: ``NPU|CPU`` silently builds on the CPU, so other targets wait until they can be proved.
"""

from __future__ import annotations

from pathlib import Path

from ai_edge_litert.interpreter import Interpreter

from agent.errors import ModelRefused
from agent.inference.backend import Accelerator, LoadOptions, require_format
from agent.inference.tflite_session import TfliteSession, probe_interpreter


class LiteRtBackend:
    """Runs ``.tflite`` files on the CPU."""

    name = "litert"
    formats: tuple[str, ...] = (".tflite",)

    def probe(self) -> list[Accelerator]:
        """Construct and run the tiny model."""
        return probe_interpreter(Interpreter)

    def load(self, path: Path, accelerator: str, options: LoadOptions) -> TfliteSession:
        """Load a ``.tflite`` file.

        Raises:
            ModelRefused: the file, the accelerator or the promised tensors do not fit.
        """
        require_format(self, path)
        if accelerator != "cpu":
            raise ModelRefused(
                f"The runtime litert has no accelerator {accelerator!r} on this device.",
                code="ACCELERATOR_MISSING",
                remedy="Ask for cpu, or for another variant of the bundle.",
            )
        return TfliteSession(Interpreter, path, options)
