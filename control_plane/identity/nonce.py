"""Nonces for request proofs, without state: an HMAC over a bucket of time.

A proof's nonce shows that it was made recently by *this* server's clock, so that a device needs no right clock of its
own (RFC 9449, section 8). Single use within the nonce's life is the database's part (``UsedProof``).
"""

from __future__ import annotations

import hashlib
import hmac

BUCKET_MS = 150_000
LIFE_MS = 2 * BUCKET_MS
"""A nonce is accepted in its own bucket of 2.5 min and the next: 2.5 to 5 min."""


class Nonces:
    """Issues and checks nonces under one secret of at least 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the nonce secret must have at least 32 bytes")
        self._secret = secret

    def current(self, now_ms: int) -> str:
        """Return the nonce of this moment: 32 hex digits."""
        return self._of(now_ms // BUCKET_MS)

    def is_fresh(self, nonce: str, now_ms: int) -> bool:
        """Whether ``nonce`` was given out in this bucket of time or the one before."""
        bucket = now_ms // BUCKET_MS
        return any(hmac.compare_digest(nonce.encode(), self._of(b).encode()) for b in (bucket, bucket - 1))

    def _of(self, bucket: int) -> str:
        return hmac.new(self._secret, b"wavegate-nonce:%d" % bucket, hashlib.sha256).hexdigest()[:32]
