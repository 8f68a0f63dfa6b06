"""When the server's certificates and its revocation list expire, read from their files, and what mends each.

Everything here but the two authorities is issued anew at every start; it can only expire where a server ran for more
than a year, or where something keeps it from writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from bundles.trust.drafting.expiry import Deadline
from control_plane.broker.configuration import BrokerFiles

SERVER_CA_COMMAND = "wavegate trust rotate server-ca"
DEVICE_CA_COMMAND = "move device-ca.pem and device-ca.key out of the keys folder, then: wavegate server run"
"""A new one is made then; a device gets its certificate from it at its next renewal, for which its key is enough."""
RESTART_COMMAND = "wavegate server run"
LIST_OVERDUE_MS = 27 * 86_400_000
"""Time left at which three daily lists are missing."""


@dataclass(frozen=True)
class Certificate:
    """A certificate file that expires, and the command that mends it."""

    path: Path
    command: str


def deadlines_of(certificates: Mapping[str, Certificate]) -> dict[str, Deadline]:
    """Return when each certificate expires, by name; one that is missing or unreadable is left out.

    Args:
        certificates: files by the name people know them under.
    """
    found: dict[str, Deadline] = {}
    for name, one in certificates.items():
        try:
            certificate = x509.load_pem_x509_certificate(one.path.read_bytes())
        except (OSError, ValueError):
            continue
        found[name] = Deadline(int(certificate.not_valid_after_utc.timestamp() * 1000), one.command)
    return found


def list_deadline_ms(path: Path) -> int | None:
    """Return when the certificate revocation list in ``path`` expires, UTC epoch ms; None where it cannot be read."""
    try:
        following = x509.load_pem_x509_crl(path.read_bytes()).next_update_utc
    except (OSError, ValueError):
        return None
    return int(following.timestamp() * 1000) if following else None


def server_deadlines(keys: Path, broker: BrokerFiles | None, now_ms: int) -> dict[str, Deadline]:
    """Return when the server's certificates expire, and its revocation list where the daily one is overdue.

    Args:
        keys: folder of the authorities and of the server's certificate.
        broker: files of the private broker, None without one.
        now_ms: server clock.
    """
    files = {
        "server-ca": Certificate(keys / "server-ca.pem", SERVER_CA_COMMAND),
        "device-ca": Certificate(keys / "device-ca.pem", DEVICE_CA_COMMAND),
        "server-certificate": Certificate(keys / "server.pem", RESTART_COMMAND),
    }
    if broker is None:
        return deadlines_of(files)
    found = deadlines_of(files | {"broker-certificate": Certificate(broker.certificate, RESTART_COMMAND)})
    expires_ms = list_deadline_ms(broker.crl)
    # A list lives for 30 days and is made anew daily; only one that is not is worth telling.
    if expires_ms is not None and expires_ms - now_ms < LIST_OVERDUE_MS:
        found["revocation-list"] = Deadline(expires_ms, RESTART_COMMAND)
    return found
