from __future__ import annotations

import pytest

from control_plane.identity.nonce import BUCKET_MS, LIFE_MS, Nonces

NOW_MS = 1_800_000_000_000


def test_a_nonce_is_fresh_for_its_life_and_not_longer() -> None:
    nonces = Nonces(b"s" * 32)
    nonce = nonces.current(NOW_MS)
    assert nonces.is_fresh(nonce, NOW_MS)
    assert nonces.is_fresh(nonce, NOW_MS + BUCKET_MS)
    assert not nonces.is_fresh(nonce, NOW_MS + LIFE_MS)


def test_a_nonce_of_the_future_of_another_server_or_made_up_is_refused() -> None:
    nonces = Nonces(b"s" * 32)
    assert not nonces.is_fresh(nonces.current(NOW_MS + BUCKET_MS), NOW_MS)
    assert not nonces.is_fresh(Nonces(b"t" * 32).current(NOW_MS), NOW_MS)
    for made_up in ("", "0" * 32, "é"):
        assert not nonces.is_fresh(made_up, NOW_MS)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        Nonces(b"short")
