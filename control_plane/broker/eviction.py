"""Ends a device's session at the broker, which nothing else does: mosquitto judges certificates at handshakes only.

The control plane signs itself a certificate of the device's own name, connects with it and leaves: two sessions of one
name cannot be, so the broker drops the device's. ``clean_start`` throws its stored session away as well. The
revocation list must be in force before, so that the device cannot come back.
"""

from __future__ import annotations

import ssl
import tempfile
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bundles.errors import TryAgain

TIMEOUT_S = 10.0


def evict(device: str, pair_pem: bytes, server_ca_pem: bytes, host: str, port: int) -> None:
    """End the session of ``device`` at the broker, whether it has one or not.

    Args:
        device: id.
        pair_pem: a certificate of that name and its key, good for the next minutes.
        server_ca_pem: who vouches for the broker.
        host: of the broker.
        port: of the broker.

    Raises:
        TryAgain: ``EVICTION``: the broker did not take the connection.
    """
    accepted = threading.Event()
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=device, protocol=mqtt.MQTTv5, reconnect_on_failure=False
    )
    with tempfile.TemporaryDirectory() as scratch:
        pair = Path(scratch) / "pair.pem"  # in a folder that only this user can enter
        pair.write_bytes(pair_pem)
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=server_ca_pem.decode("ascii"))
        context.load_cert_chain(pair)
    client.tls_set_context(context)
    client.connect_timeout = TIMEOUT_S
    client.on_connect = lambda _c, _u, _f, reason, _p: None if reason.is_failure else accepted.set()
    try:
        client.connect(host, port, clean_start=True)
        client.loop_start()
        if not accepted.wait(TIMEOUT_S):
            raise TimeoutError("the broker did not answer")
    except OSError as error:  # TLS, refused, timed out
        raise TryAgain(
            f"The session of {device!r} could not be ended: {error}.",
            code="EVICTION",
            remedy="It is tried again; the broker's log says more.",
        ) from error
    finally:
        client.disconnect()
        client.loop_stop()
        client.reinitialise()  # closes the socket pair that woke its loop
