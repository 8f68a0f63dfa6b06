"""The agent's errors, grouped by what the caller should do (see ``bundles.errors`` for the families).

::

    Refused
    ├── ModelRefused         the model file, or how it was asked for, will never work here
    └── ModelUnknown         no such model is loaded
    TryAgain
    ├── WorkerLost           the process holding the model died or overran its deadline
    ├── RunFailed            the runtime answered this request with an error
    ├── NotReady             no model answers yet
    │   └── SafeMode         the model was revoked, and its bundle says that requests are refused then
    └── DaemonUnreachable    nobody answers on the agent's socket
    AskPerson
    ├── BackendUnavailable   a runtime is not installed or does not work on this device
    └── SocketRefused        the agent's socket cannot be opened where it was asked for
"""

from __future__ import annotations

from bundles.errors import AskPerson, Refused, TryAgain


class ModelRefused(Refused):
    """The model file, or how it was asked for, will never work here (codes ``MODEL_*``, ``ACCELERATOR_*``)."""

    default_code = "MODEL_INVALID"


class ModelUnknown(Refused):
    """No model of that name, or not in that version, is loaded."""

    default_code = "MODEL_UNKNOWN"


class WorkerLost(TryAgain):
    """The process holding the model died (``WORKER_CRASHED``) or overran its deadline (``RUN_DEADLINE``)."""

    default_code = "WORKER_CRASHED"


class RunFailed(TryAgain):
    """The runtime answered this request with an error; the model still answers others."""

    default_code = "RUN_FAILED"


class NotReady(TryAgain):
    """No model answers yet, or its worker is waiting to be started again."""

    default_code = "NOT_READY"


class SafeMode(NotReady):
    """The model was revoked, nothing may stand in for it, and its bundle declares ``stop`` or ``constant``.

    ``constant`` promises applications a value of their own making: no release of the manifest has a field that holds
    it, and a number invented here would look like an answer. So the agent says that this is the moment for it, by
    this code, which no other trouble has; what the value is, the application knows (a closed valve, a red light).
    ``stop`` is told the same way, because a model that was withheld on purpose is not an unknown one.
    """

    default_code = "SAFE_MODE"


class DaemonUnreachable(TryAgain):
    """Nobody answers on the agent's socket."""

    default_code = "DAEMON_UNREACHABLE"


class BackendUnavailable(AskPerson):
    """A runtime is not installed, or does not work on this device."""

    default_code = "BACKEND_UNAVAILABLE"


class SocketRefused(AskPerson):
    """The agent's socket cannot be opened where it was asked for."""

    default_code = "SOCKET_REFUSED"
