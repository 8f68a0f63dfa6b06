"""What every door gives out for one request: the embedded engine and the socket client alike."""

from __future__ import annotations

from typing import Any

import msgspec


class Prediction(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        outputs: tensor name -> array in the contract's dtype.
        model: ``team/model``.
        version: version of the bundle that answered.
        sha256: digest of that bundle.
        latency_ms: within the engine, end to end.
        id: unique; what labels and business events refer to.
    """

    outputs: dict[str, Any]
    model: str
    version: str
    sha256: str
    latency_ms: float
    id: str
