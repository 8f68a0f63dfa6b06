import pytest

from bundles.sketch.form import LatencyHistogram
from bundles.sketch.latency import LatencyRecorder, bucket_bounds, bucket_index, percentile_us, within_ratio


@pytest.mark.parametrize(
    ("latency_ns", "index"),
    # OpenTelemetry: a power of the base belongs to the bucket below it; 2**k us is at index 32 k - 1.
    [(1_000, -1), (2_000, 31), (1_024_000, 319), (1_024_001, 320), (500, -33), (0, -319), (-7, -319), (10**30, 1015)],
)
def test_index_is_that_of_otlp_at_scale_5(latency_ns, index):
    assert bucket_index(latency_ns) == index


def test_bounds_of_neighbouring_buckets_meet():
    assert bucket_bounds(31) == (pytest.approx(2 ** (31 / 32)), 2.0)
    assert bucket_bounds(32)[0] == bucket_bounds(31)[1]


def test_a_recorder_keeps_one_run_of_buckets_and_a_whole_sum():
    recorder = LatencyRecorder()
    for latency_ns in (1_000_600, 1_000_600, 4_000_000):
        recorder.observe(latency_ns)
    histogram = recorder.histogram()
    assert (histogram.n, histogram.sum_us) == (3, 6001)
    assert (histogram.offset, histogram.counts[0], histogram.counts[-1]) == (bucket_index(1_000_600), 2, 1)
    assert len(histogram.counts) == bucket_index(4_000_000) - bucket_index(1_000_600) + 1


def test_fleet_percentiles_come_from_merged_buckets():
    recorder = LatencyRecorder()
    for i in range(1, 1001):
        recorder.observe(i * 1_000_000)
    histogram = recorder.histogram()
    for ratio, exact_us in ((0.5, 500_000), (0.95, 950_000), (0.99, 990_000), (1.0, 1_000_000), (0.0, 1_000)):
        assert percentile_us(histogram, ratio) == pytest.approx(exact_us, rel=0.011)


def test_share_within_a_target_is_exact_at_an_edge_and_never_flattering():
    recorder = LatencyRecorder()
    for latency_ns in (900_000, 1_024_000, 1_030_000, 2_048_000, 9_000_000):
        recorder.observe(latency_ns)
    histogram = recorder.histogram()
    assert within_ratio(histogram, 1024.0) == 2 / 5
    assert within_ratio(histogram, bucket_bounds(bucket_index(1_030_000))[1]) == 3 / 5
    assert within_ratio(histogram, 1035.0) == 2 / 5
    assert within_ratio(histogram, 1e9) == 1.0


def test_no_requests_have_no_percentile():
    assert percentile_us(LatencyHistogram(), 0.5) is None
    assert within_ratio(LatencyHistogram(), 1000.0) is None
