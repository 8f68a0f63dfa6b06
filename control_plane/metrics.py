"""The names of all metrics, declared once. No metric carries a device label: fleets grow, label sets must not."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

MESSAGES = Counter("wavegate_ingest_messages", "Upward messages taken in, by outcome.", ["outcome"], registry=REGISTRY)
DEAD_LETTERS = Counter("wavegate_ingest_dead_letters", "Messages that could not be read.", ["code"], registry=REGISTRY)
INGEST_SECONDS = Histogram(
    "wavegate_ingest_transaction_seconds", "Duration of one ingest transaction.", registry=REGISTRY
)
INGEST_FAILURES = Counter(
    "wavegate_ingest_failures", "Ingest transactions that failed and were tried again.", registry=REGISTRY
)
INGEST_BACKLOG = Gauge("wavegate_ingest_backlog", "Messages waiting for the writer.", registry=REGISTRY)
DESIRED_PUBLISHED = Counter("wavegate_desired_published", "Desired documents handed to the broker.", registry=REGISTRY)
BROKER_RESTARTS = Gauge("wavegate_broker_restarts", "Restarts of the private broker.", registry=REGISTRY)
DEVICES = Gauge("wavegate_devices", "Devices by state.", ["state"], registry=REGISTRY)
ROLLOUTS = Gauge("wavegate_rollouts", "Rollouts by phase.", ["phase"], registry=REGISTRY)
ALERTS = Gauge("wavegate_alerts_firing", "Firing alerts by severity.", ["severity"], registry=REGISTRY)
WORKER_FAILURES = Counter(
    "wavegate_worker_failures", "Rounds of a background worker that failed.", ["worker"], registry=REGISTRY
)
CHUNK_ASKS = Counter(
    "wavegate_chunk_asks", "Asks for chunks of a file over the broker, by outcome.", ["outcome"], registry=REGISTRY
)
DELTAS_BUILT = Counter(
    "wavegate_deltas_built",
    "Deltas tried, by outcome: made, useless (too large) or failed.",
    ["outcome"],
    registry=REGISTRY,
)
DELTA_CACHE_HITS = Counter("wavegate_delta_cache_hits", "Deltas asked for and known already.", registry=REGISTRY)
DELTAS_SERVED = Counter("wavegate_deltas_served", "Deltas that began to be sent to a device.", registry=REGISTRY)
DELTA_BYTES_SAVED = Counter(
    "wavegate_delta_bytes_saved", "Bytes of whole files less those of the deltas sent instead.", registry=REGISTRY
)
METADATA_EXPIRY = Gauge(
    "wavegate_metadata_expires_timestamp_seconds",
    "When a trust role's metadata, a certificate or a list expires.",
    ["role"],
    registry=REGISTRY,
)
