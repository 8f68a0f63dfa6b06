"""Which way to the broker is tried next, and what an end of a connection asks for. Values in, values out.

The order is the order of preference: MQTT over TCP, then over WebSocket. HTTPS polling is no way of its own here: it
carries the reports whenever neither stands (``agent.runner.link``), so a device that can do nothing else needs no
decision. After ``CHANGE_AFTER`` failures in a row the next way is tried, round and round, so that the best one that
works is found whatever happens to the network. On a way that is not the best, the better ones are looked at from time
to time, without giving up the connection that stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from agent.core.retry import Backoff

Way = Literal["mqtt", "websocket"]
Setting = Literal["auto", "mqtt", "websocket", "https"]
Action = Literal["retry", "slow", "conflict"]
"""``retry``: soon, with full jitter. ``slow``: nothing changes within seconds, and somebody should be told.
``conflict``: another agent uses this identity."""

CHANGE_AFTER = 2
RECONNECT = Backoff(base_s=1.0, cap_s=120.0, floor_s=0.1)
RECONNECT_SLOWLY = Backoff(base_s=300.0, cap_s=3600.0, floor_s=60.0)
LOOK_AGAIN = Backoff(base_s=300.0, cap_s=3600.0, floor_s=60.0)


@dataclass(frozen=True)
class Trouble:
    """What a broker's reason code asks for.

    Attributes:
        code: stable, shown in the status and by the doctor.
        action: see ``Action``.
        sentence: what it means.
        remedy: what a person can do.
    """

    code: str
    action: Action
    sentence: str
    remedy: str


_BUSY = Trouble("BROKER_BUSY", "retry", "The broker is busy or stops.", "The agent tries again by itself.")
_PROTOCOL = Trouble(
    "BROKER_PROTOCOL",
    "slow",
    "The broker does not take what this agent speaks (MQTT 5).",
    "Use a broker that speaks MQTT 5; reports go over HTTPS meanwhile.",
)
_IDENTITY = Trouble(
    "BROKER_NOT_AUTHORIZED",
    "slow",
    "The broker does not let this device do what it asked.",
    "Check that the device is not revoked, and the broker's access list; reports go over HTTPS meanwhile.",
)
_QUOTA = Trouble(
    "BROKER_QUOTA",
    "slow",
    "The broker says that a limit of its own is reached.",
    "Raise the broker's quota for devices; reports go over HTTPS meanwhile.",
)
_MOVED = Trouble(
    "BROKER_MOVED",
    "slow",
    "The broker says that another one is to be used.",
    "Devices do not follow such advice: set the server's broker address, and enrol or renew.",
)
_SUBSCRIPTION = Trouble(
    "BROKER_SUBSCRIPTION",
    "slow",
    "The broker refuses a subscription that this agent cannot do without.",
    "Check the broker's access list; reports go over HTTPS meanwhile.",
)
_TOO_LARGE = Trouble(
    "BROKER_PACKET_SIZE",
    "retry",
    "The broker takes no message of this size.",
    "Nothing: larger ones go over HTTPS.",
)
_TAKEN_OVER = Trouble(
    "taken_over",
    "conflict",
    "Somebody else connected with this identity.",
    "Find the clone, revoke the identity and enrol both anew.",
)

REASONS: dict[int, Trouble] = {
    0x81: _PROTOCOL,
    0x82: _PROTOCOL,
    0x84: _PROTOCOL,
    0x85: _IDENTITY,
    0x86: _IDENTITY,
    0x87: _IDENTITY,
    0x88: _BUSY,
    0x89: _BUSY,
    0x8A: _IDENTITY,
    0x8B: _BUSY,
    0x8C: _IDENTITY,
    0x8D: _BUSY,
    0x8E: _TAKEN_OVER,
    0x8F: _SUBSCRIPTION,
    0x90: _IDENTITY,
    0x91: _BUSY,
    0x93: _BUSY,
    0x94: _PROTOCOL,
    0x95: _TOO_LARGE,
    0x96: _QUOTA,
    0x97: _QUOTA,
    0x98: _IDENTITY,
    0x99: _PROTOCOL,
    0x9A: _PROTOCOL,
    0x9B: _PROTOCOL,
    0x9C: _MOVED,
    0x9D: _MOVED,
    0x9E: _SUBSCRIPTION,
    0x9F: _BUSY,
    0xA0: _BUSY,
    0xA1: _SUBSCRIPTION,
    0xA2: _SUBSCRIPTION,
}
"""MQTT 5 reason codes (section 2.4 of OASIS MQTT 5.0) -> what to do. 0x80 says nothing, and is tried again."""
SUBSCRIPTION_REFUSED = _SUBSCRIPTION
TROUBLES: dict[str, Trouble] = {one.code: one for one in REASONS.values()}


def trouble_of(value: int) -> Trouble | None:
    """Return what a reason code asks for; None where it tells nothing but success or failure."""
    return REASONS.get(value)


def ways_of(setting: Setting, *, has_mqtt: bool, has_websocket: bool) -> tuple[Way, ...]:
    """Return the ways to the broker in order of preference; none = HTTPS polling alone.

    Args:
        setting: what the device's owner wants.
        has_mqtt: whether the server named a broker.
        has_websocket: whether it named a WebSocket port as well.
    """
    ways: list[Way] = []
    if has_mqtt and setting in ("auto", "mqtt"):
        ways.append("mqtt")
    if has_websocket and setting in ("auto", "websocket"):
        ways.append("websocket")
    return tuple(ways)


@dataclass(frozen=True)
class Route:
    """Where the search for a way stands.

    Attributes:
        ways: in order of preference, at least one.
        at: index of the way in use, or to be tried next.
        failures: in a row on that way.
        tries: in a row on any; what the pauses grow with.
        slow_tries: failures in a row that ask for patience.
        looks: how often a better way was looked at in vain since the best one last stood.
    """

    ways: tuple[Way, ...]
    at: int = 0
    failures: int = 0
    tries: int = 0
    slow_tries: int = 0
    looks: int = 0

    @property
    def way(self) -> Way:
        """The way in use, or to be tried next."""
        return self.ways[self.at]

    @property
    def better(self) -> tuple[Way, ...]:
        """Ways that would be preferred to the one in use."""
        return self.ways[: self.at]


def failed(route: Route) -> Route:
    """Return the route after a try that failed, or a connection too short to count."""
    route = replace(route, failures=route.failures + 1, tries=route.tries + 1)
    if route.failures < CHANGE_AFTER or len(route.ways) == 1:
        return route
    return replace(route, at=(route.at + 1) % len(route.ways), failures=0)


def told(route: Route, action: Action) -> Route:
    """Return the route after a failure that asks for this: the broker said why, or it was not even reached."""
    return replace(route, slow_tries=route.slow_tries + 1 if action == "slow" else 0)


def stood(route: Route) -> Route:
    """Return the route after a connection that lasted: what was learnt from failures is over."""
    return replace(route, failures=0, tries=0, slow_tries=0, looks=0 if route.at == 0 else route.looks)


def wait_s(route: Route, draw: float) -> float:
    """Return the pause before the next try, for a ``draw`` from [0, 1)."""
    if route.slow_tries:
        return RECONNECT_SLOWLY.delay_s(route.slow_tries, draw)
    return RECONNECT.delay_s(route.tries, draw)


def look_s(route: Route, draw: float) -> float:
    """Return when to look at a better way, for a ``draw`` from [0, 1)."""
    return LOOK_AGAIN.delay_s(route.looks + 1, draw)


def looked(route: Route, found: Way | None) -> Route:
    """Return the route after a look at the better ways: the one that answered is tried at once."""
    looks = route.looks + 1
    if found is None or found not in route.better:
        return replace(route, looks=looks)
    return replace(route, at=route.ways.index(found), failures=0, tries=0, looks=looks)
