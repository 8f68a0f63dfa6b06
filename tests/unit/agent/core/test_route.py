"""Which way is tried next: the best that works, round and round, without pauses that grow for ever or in step."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.route import (
    CHANGE_AFTER,
    LOOK_AGAIN,
    REASONS,
    RECONNECT,
    RECONNECT_SLOWLY,
    Route,
    failed,
    look_s,
    looked,
    stood,
    told,
    trouble_of,
    wait_s,
    ways_of,
)

BOTH = ("mqtt", "websocket")


@pytest.mark.parametrize(
    ("setting", "has_mqtt", "has_websocket", "ways"),
    [
        ("auto", True, True, BOTH),
        ("auto", True, False, ("mqtt",)),
        ("auto", False, True, ("websocket",)),
        ("auto", False, False, ()),
        ("mqtt", True, True, ("mqtt",)),
        ("websocket", True, True, ("websocket",)),
        ("websocket", True, False, ()),
        ("https", True, True, ()),
    ],
)
def test_the_owner_and_the_server_say_which_ways_there_are(setting, has_mqtt, has_websocket, ways):
    assert ways_of(setting, has_mqtt=has_mqtt, has_websocket=has_websocket) == ways


def test_one_failure_is_no_reason_to_leave_a_way_and_the_search_goes_round():
    route, seen = Route(BOTH), []
    for _ in range(4 * CHANGE_AFTER):
        seen.append(route.way)
        route = failed(route)
    turn = [way for way in BOTH for _ in range(CHANGE_AFTER)]
    assert seen == turn + turn


def test_where_there_is_one_way_it_is_kept():
    route = Route(("mqtt",))
    for _ in range(100):
        route = failed(route)
    assert (route.way, route.tries) == ("mqtt", 100)


def test_a_connection_that_lasted_makes_up_for_every_failure_before():
    route = stood(told(failed(failed(failed(Route(BOTH)))), "slow"))
    assert (route.failures, route.tries, route.slow_tries) == (0, 0, 0)
    assert route.way == "websocket", "what stands is not left"


def test_only_better_ways_are_looked_at_and_the_first_that_answers_is_taken():
    route = Route(BOTH, at=1, looks=3)
    assert route.better == ("mqtt",)
    assert looked(route, None) == Route(BOTH, at=1, looks=4)
    assert looked(route, "mqtt").way == "mqtt"
    assert Route(BOTH).better == ()
    assert looked(Route(BOTH), "websocket").way == "mqtt", "a worse one is never changed to"


def test_looks_in_vain_become_rarer_until_the_best_way_stands():
    route = Route(BOTH, at=1)
    longest = []
    for _ in range(12):
        longest.append(look_s(route, 0.999999))
        route = looked(route, None)
    assert longest == sorted(longest)
    assert longest[-1] <= LOOK_AGAIN.cap_s
    assert stood(route).looks == route.looks, "standing on a worse way is no reason to look more often"
    assert stood(looked(route, "mqtt")).looks == 0


@given(st.lists(st.sampled_from(["retry", "slow", "stood"]), max_size=60), st.floats(0, 1, exclude_max=True))
def test_pauses_have_full_jitter_a_floor_and_a_cap_whatever_happened(story, draw):
    route = Route(BOTH)
    for what in story:
        route = stood(route) if what == "stood" else told(failed(route), what)
        backoff = RECONNECT_SLOWLY if route.slow_tries else RECONNECT
        assert backoff.floor_s <= wait_s(route, draw) <= backoff.cap_s
    assert route.way in BOTH
    assert route.failures < CHANGE_AFTER


def test_a_fleet_that_lost_its_broker_at_one_moment_comes_back_spread_out():
    route = Route(("mqtt",))
    for _ in range(8):
        route = told(failed(route), "retry")
    waits = [wait_s(route, number / 1000) for number in range(1000)]
    tenths = [sum(1 for one in waits if low <= one / RECONNECT.cap_s < low + 0.1) for low in (0.0, 0.3, 0.6, 0.9)]
    assert all(90 <= tenth <= 110 for tenth in tenths), "full jitter: as many in each tenth of the pause"


def test_every_reason_of_mqtt_5_that_is_a_failure_has_words_a_code_and_a_remedy():
    for value, trouble in REASONS.items():
        assert value >= 0x80
        assert all((trouble.code, trouble.sentence, trouble.remedy))
        assert trouble_of(value) is trouble
    assert all(trouble_of(value) is None for value in itertools.chain(range(0x80), [0x80]))
