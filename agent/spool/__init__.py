"""The offline queue of what must reach the control plane exactly once. See ``spool`` for its rules."""

from agent.spool.spool import Spool, SpoolRow, SpoolStatus

__all__ = ["Spool", "SpoolRow", "SpoolStatus"]
