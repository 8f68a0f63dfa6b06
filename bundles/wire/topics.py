"""MQTT topic names, ``wg/1/d/{device}/(down|up)/...``; the device id is the certificate's CN.

Topics carry no tenancy. Anything after the prefix version may grow; the prefix's ``1`` changes only with a break.
"""

from __future__ import annotations

import re

PREFIX = "wg/1/d"
DEVICE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?\Z")
"""A device id: 1 to 64 of ``a-z``, ``0-9`` and ``-``. It holds no dot, which the control plane's own names do."""

DOWN_DESIRED = "down/desired"
DOWN_ACK = "down/ack"
UP_REPORTED = "up/reported"
UP_EVENT = "up/event"
UP_TELEMETRY = "up/tel"
UP_PRESENCE = "up/presence"
UP_BLOB = "up/blob"
DOWN_BLOB = "down/blob/"
"""Followed by the id of the ask; see ``bundles.wire.chunks``."""
UP_KINDS = (UP_REPORTED, UP_EVENT, UP_TELEMETRY, UP_PRESENCE)


def is_device_id(text: str) -> bool:
    """Whether ``text`` may name a device."""
    return DEVICE_ID.match(text) is not None


def topic(device: str, leaf: str) -> str:
    """Return the topic of ``leaf`` (such as ``down/desired``) for ``device``."""
    return f"{PREFIX}/{device}/{leaf}"


def split_up_topic(name: str) -> tuple[str, str] | None:
    """Split an upward topic into (device, leaf); None where it is not one this version knows."""
    head, _, rest = name.partition(PREFIX + "/")
    device, _, leaf = rest.partition("/")
    if head or leaf not in UP_KINDS or not is_device_id(device):
        return None
    return device, leaf
