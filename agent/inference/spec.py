"""What the engine and a trial are asked to load: one variant of one verified bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.inference.backend import LoadOptions, Port
from agent.inference.messages import Load
from bundles.contract import Contract, TensorSpec


@dataclass(frozen=True)
class ModelSpec:
    """One model to load.

    Attributes:
        model: ``team/model``.
        sha256: the bundle digest.
        version: the bundle's version.
        variant_id: which variant of the bundle.
        backend: the variant's runtime, a name of ``backend.REGISTRY``.
        model_path: the variant's file in its slot.
        contract: the bundle's contract.
        accelerator: what it must run on.
        mode: ``worker`` (an isolated process) or ``inproc`` (only after a trial has passed).
        run_deadline_s: after which a run is given up; see ``trial.run_deadline_s``.
        threads: threads within one operator.
    """

    model: str
    sha256: str
    version: str
    variant_id: str
    backend: str
    model_path: Path
    contract: Contract
    accelerator: str = "cpu"
    mode: Literal["worker", "inproc"] = "worker"
    run_deadline_s: float = 1.0
    threads: int = 1

    def options(self) -> LoadOptions:
        """Return what the contract promises, in the form backends take."""
        return LoadOptions(
            inputs=tuple(_port(tensor) for tensor in self.contract.inputs),
            outputs=tuple(_port(tensor) for tensor in self.contract.outputs),
            threads=self.threads,
        )

    def load_message(self) -> Load:
        """Return the request that loads this model in a worker."""
        return Load(self.backend, str(self.model_path), self.accelerator, self.options())


def _port(tensor: TensorSpec) -> Port:
    return Port(tensor.name, tensor.dtype, tuple(tensor.shape))
