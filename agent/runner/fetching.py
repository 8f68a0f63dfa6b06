"""Puts together how one real device fetches: its sources in the order of its config, its budget, its pace.

Leaves what each part does to its room; see ``blobs``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from agent.config import AgentConfig
from agent.direct import ObjectStore, public_context
from agent.download.chunked import Chunks
from agent.download.losses import Losses
from agent.download.meter import ByteBudget, TokenBucket
from agent.download.turns import Turns
from agent.https import DeviceDoor
from agent.identity import write_durably
from agent.mqtt import PresenceState, Transport
from agent.proxy import Proxies
from agent.runner.blobs import HTTPS, MQTT, MetadataInTurn, Price, ServerBlobs, ServerSource, sources_in_turn
from agent.runner.device import TransportOf

KIB, MIB = 1024, 1024 * 1024
T = TypeVar("T")


class Fetching:
    """How one device fetches blobs and trust metadata.

    Args:
        config: its settings.
        door: to the server.
        extra: CAs (DER) taken for an object store's, beside the system's.
        proxies: on the way to an object store.
        budget_path: keeps what today's downloads have cost.
        losses_path: keeps what was fetched in vain.
        wall_ms: UTC epoch ms.
        rng: for jitter and ids.
        uses_broker: whether there is a broker to fetch from.

    Attributes:
        blobs: brings blobs into the store.
    """

    def __init__(
        self,
        config: AgentConfig,
        door: DeviceDoor,
        extra: Sequence[bytes],
        proxies: Proxies,
        budget_path: Path,
        losses_path: Path,
        wall_ms: Callable[[], int],
        rng: random.Random,
        *,
        uses_broker: bool,
    ) -> None:
        limit = config.byte_budget_mib_day * MIB
        self._budget = budget = (
            _keeping(budget_path, lambda *kept: ByteBudget(limit, wall_ms, *kept)) if limit else None
        )
        losses = _keeping(losses_path, lambda *kept: Losses(wall_ms, *kept))
        rate = config.rate_limit_kib_s * KIB
        bucket = TokenBucket(rate, time.monotonic, time.sleep) if rate else None
        self._transport: Transport | None = None
        wasted = budget.spend if budget else lambda _count: None
        self._chunks = Chunks(self._publish, lambda: f"{rng.getrandbits(64):016x}", wasted=wasted)
        self._store = ObjectStore(lambda: public_context(extra), proxies.to_url)
        # A list that names nothing this device has would leave it without updates: then it is the server.
        names: list[str] = [name for name in config.blob_sources if name == HTTPS or uses_broker] or [HTTPS]
        turns = Turns(names, time.monotonic)
        chunks = self._chunks if MQTT in names else None
        source = sources_in_turn(ServerSource(door, self._store), chunks, turns)
        self.blobs = ServerBlobs(source, rng, Price(budget, bucket), losses=losses)
        self._metadata = MetadataInTurn(door.metadata, self._chunks, turns) if chunks else door.metadata

    def metadata(self, name: str, max_length: int) -> Iterable[bytes]:
        """Fetch a file of trust metadata; a ``bundles.trust.fetch.MetadataFetch``."""
        return self._metadata(name, max_length)

    def over(self, transport_of: TransportOf) -> TransportOf:
        """Return ``transport_of``, whose connection brings chunks here and everything else where it went before."""

        def make(
            on_down: Callable[[str, bytes], None],
            on_state: Callable[[bool, str], None],
            presence: Callable[[PresenceState], bytes],
        ) -> Transport:
            def down(leaf: str, payload: bytes) -> None:
                if not self._chunks.take(leaf, payload):
                    on_down(leaf, payload)

            self._transport = transport_of(down, on_state, presence)
            return self._transport

        return make

    def check_budget(self) -> None:
        """Check that downloads may cost something more now.

        Raises:
            TryAgain: ``CONDITION_BUDGET``.
        """
        if self._budget is not None:
            self._budget.check()

    def close(self) -> None:
        """Close the connections to object stores; being told twice is normal."""
        self._store.close()

    def _publish(self, leaf: str, payload: bytes) -> bool:
        return self._transport is not None and self._transport.publish(leaf, payload, 0)


def _keeping(path: Path, make: Callable[[bytes, Callable[[bytes], None]], T]) -> T:
    """Return what ``make`` makes of a file's content and of what writes it; a file that is not there is empty."""
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    return make(kept, lambda data: write_durably(path, data))
