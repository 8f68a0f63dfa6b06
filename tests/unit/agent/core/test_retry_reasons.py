import pytest

from agent.core.reasons import ENVIRONMENT, reason_of
from agent.core.retry import Backoff


def test_full_jitter_spreads_between_the_floor_and_a_doubling_bound():
    backoff = Backoff(base_s=2, cap_s=60, floor_s=0.1)
    assert [backoff.delay_s(n, 0.5) for n in (1, 2, 3, 4, 5, 6, 60)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay_s(3, 0.0) == 0.1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("TRUST_FLOOR", "verify"),
        ("GOLDEN_MISMATCH", "golden_mismatch"),
        ("MODEL_IO", "schema"),
        ("WORKER_CRASHED", "native_crash"),
        ("DISK_FULL", "disk"),
        ("DOWNLOAD_STATUS", "transport"),
        ("SOMETHING_NEW", "load"),
    ],
)
def test_codes_map_to_the_rollouts_words(code, reason):
    assert reason_of(code) == reason
    assert (reason in ENVIRONMENT) == (reason in ("disk", "transport"))
