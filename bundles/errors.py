"""The one family of errors, grouped by what the caller should do.

::

    WavegateError
    ├── Refused        the same input will be refused again: mend the input
    │   ├── BundleRefused    a bundle, manifest or archive is not what the format allows
    │   ├── TrustRefused     signatures, versions or policy say no (codes ``TRUST_*``)
    │   ├── MessageRefused   a wire message cannot be read
    │   └── InputRefused     a request to a model breaks its contract (codes ``INPUT_*``)
    ├── TryAgain       nothing is wrong with the input: the same call may succeed later
    └── AskPerson      something only a person can put right (a key, a port, a missing program)

Every error carries a stable ``code`` for programs, one sentence for people, and a ``remedy``.
The agent and the control plane extend these families in their own ``errors`` module; none of them knows HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping


class WavegateError(Exception):
    """Base of the family.

    Attributes:
        code: stable upper-case identifier; programs may match on it.
        sentence: what happened, in one sentence, without a trailing remedy.
        remedy: what the reader can do about it; may be empty only where nothing can be done.
        details: plain values that explain the case (paths, digests, limits).
    """

    default_code = "WAVEGATE_ERROR"

    def __init__(
        self,
        sentence: str,
        *,
        code: str | None = None,
        remedy: str = "",
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.code = code or self.default_code
        self.sentence = sentence
        self.remedy = remedy
        self.details: dict[str, object] = dict(details or {})

    def __str__(self) -> str:
        text = f"[{self.code}] {self.sentence}"
        return f"{text} {self.remedy}" if self.remedy else text

    def as_dict(self) -> dict[str, object]:
        """Return the error as plain values, the same on every door (CLI ``--json``, socket, API)."""
        return {"code": self.code, "message": self.sentence, "remedy": self.remedy, "details": self.details}


class Refused(WavegateError):
    """The same input will be refused again."""

    default_code = "REFUSED"


class BundleRefused(Refused):
    """A bundle, manifest or archive is not what the format allows."""

    default_code = "BUNDLE_INVALID"


class TrustRefused(Refused):
    """Trust said no. The running model is untouched."""

    default_code = "TRUST_REFUSED"


class MessageRefused(Refused):
    """A wire message cannot be read."""

    default_code = "MESSAGE_INVALID"


class InputRefused(Refused):
    """A request breaks the model's contract; it never reached the model."""

    default_code = "INPUT_INVALID"


class TryAgain(WavegateError):
    """A passing condition: network, load, a lock held by somebody else."""

    default_code = "TRY_AGAIN"


class AskPerson(WavegateError):
    """Only a person can put this right."""

    default_code = "ASK_PERSON"
