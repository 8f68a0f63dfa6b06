"""The tflite-runtime backend: 3 MiB small, CPU only, and the only one with a wheel for armv7l.

tflite-runtime 2.14 was built against numpy 1. Beside numpy 2 it installs and imports, and its first ``Interpreter``
fails or kills the process, so this backend is believed only after ``probe`` has run a model in a child.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

if int(np.__version__.partition(".")[0]) >= 2:
    raise ImportError(f"tflite-runtime works with numpy < 2 only, and numpy {np.__version__} is installed")

from tflite_runtime.interpreter import Interpreter

from agent.errors import ModelRefused
from agent.inference.backend import Accelerator, LoadOptions, require_format
from agent.inference.tflite_session import TfliteSession, probe_interpreter


class TfliteBackend:
    """Runs ``.tflite`` files on the CPU with the built-in kernels."""

    name = "tflite"
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
                f"The runtime tflite has no accelerator {accelerator!r}; it knows the CPU only.",
                code="ACCELERATOR_MISSING",
                remedy="Ask for cpu, or for another variant of the bundle.",
            )
        return TfliteSession(Interpreter, path, options)
