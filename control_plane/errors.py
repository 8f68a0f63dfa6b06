"""The control plane's errors, grouped by what the caller should do (see ``bundles.errors`` for the families).

::

    Refused
    ├── RequestRefused        the request breaks a rule that is written down (codes of the case)
    │   ├── PolicyRefused     a gate policy or timing profile cannot be kept; refused when it is written
    │   └── PlanRefused       a rollout cannot be planned: empty selector, waves that do not add up
    ├── Unauthenticated       no token, or one that is unknown, expired or revoked
    ├── NotAllowed            the principal lacks the role, the team, or a second person is needed
    ├── NotFound              nothing has that name
    ├── Conflict              the thing is in a state that does not allow this
    ├── PreconditionMissing   the request must say which version it means (If-Match)
    ├── PreconditionFailed    somebody changed it since it was read
    └── TooLarge              the body is over the limit
    TryAgain
    └── DatabaseBusy          the database did not answer in time, or another transaction won
    AskPerson
    └── SetUpWrong            an address, a folder or a program a person must put right

None of these knows HTTP; ``api.problems`` maps them in one place.
"""

from __future__ import annotations

from bundles.errors import AskPerson, Refused, TryAgain


class RequestRefused(Refused):
    """The request breaks a rule that is written down."""

    default_code = "REQUEST_INVALID"


class PolicyRefused(RequestRefused):
    """A gate policy or a timing profile cannot be kept; it is refused when it is written."""

    default_code = "POLICY_INVALID"


class PlanRefused(RequestRefused):
    """A rollout cannot be planned."""

    default_code = "PLAN_INVALID"


class Unauthenticated(Refused):
    """No token, or one that is unknown, expired or revoked."""

    default_code = "UNAUTHENTICATED"


class NotAllowed(Refused):
    """The principal may not do this, or not alone."""

    default_code = "NOT_ALLOWED"


class NotFound(Refused):
    """Nothing has that name."""

    default_code = "NOT_FOUND"


class Conflict(Refused):
    """The thing is in a state that does not allow this."""

    default_code = "CONFLICT"


class PreconditionMissing(Refused):
    """The request must say which version it means."""

    default_code = "PRECONDITION_REQUIRED"


class PreconditionFailed(Refused):
    """Somebody changed the thing since it was read."""

    default_code = "PRECONDITION_FAILED"


class TooLarge(Refused):
    """The body is over the limit."""

    default_code = "TOO_LARGE"


class DatabaseBusy(TryAgain):
    """The database did not answer in time, or another transaction won."""

    default_code = "DATABASE_BUSY"


class SetUpWrong(AskPerson):
    """An address, a folder or a program that a person must put right."""

    default_code = "SET_UP_WRONG"
