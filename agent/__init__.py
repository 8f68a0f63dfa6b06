"""What happens on one device: fetch, verify, try, run and watch models, and report.

Applications use two names from here: ``Client``, a thin socket client of the daemon, and ``Engine``, what the daemon
itself runs models with. Both are imported when first asked for, so that ``import agent`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.client import Client
    from agent.inference.engine import Engine

__all__ = ["Client", "Engine"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from agent.client import Client

        return Client
    if name == "Engine":
        from agent.inference.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
