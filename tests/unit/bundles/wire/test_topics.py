from __future__ import annotations

import pytest

from bundles.wire import topics


@pytest.mark.parametrize("device", ["a", "cam-01", "0", "a" * 64])
def test_upward_topic_is_split_as_it_was_made(device):
    for leaf in topics.UP_KINDS:
        assert topics.split_up_topic(topics.topic(device, leaf)) == (device, leaf)


@pytest.mark.parametrize(
    "name", ["", "A", "cp.ingest", "+", "#", "a/b", "-a", "a-", "a" * 65, "a\n", "é", "$SYS", "a b", "a\0"]
)
def test_name_that_could_mislead_the_broker_is_no_device(name):
    assert not topics.is_device_id(name)
    assert topics.split_up_topic(topics.topic(name, topics.UP_EVENT)) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "wg/1/d/a/down/desired",
        "wg/2/d/a/up/event",
        "x/wg/1/d/a/up/event",
        "wg/1/d/a/up/event/x",
        "wg/1/d//up/event",
    ],
)
def test_other_topics_are_not_taken(name):
    assert topics.split_up_topic(name) is None
