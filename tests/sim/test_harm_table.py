"""The harm table's regression targets, in a short seeded form; ``scripts/simulate`` runs the long one."""

import json

import pytest

from control_plane.core.states import RolloutPhase
from control_plane.simulation.harm import measure, play, render
from control_plane.simulation.main import main
from control_plane.simulation.scenarios import RELEASES

BY_NAME = {release.name: release for release in RELEASES}


@pytest.mark.parametrize("name", ["20 % bad, half brick", "20 % silent brick", "60 % brick"])
def test_a_bad_release_harms_few_and_is_always_halted(name):
    row = measure(BY_NAME[name], range(100, 130))
    print(render([row]))
    assert row.harmed_p95 <= 10
    assert row.halted == 1.0


def test_a_good_release_reaches_the_whole_online_fleet():
    for seed in range(200, 208):
        run = play(BY_NAME["good 1 %"], seed)
        assert run.phase is RolloutPhase.COMPLETED, f"seed {seed}"


def test_a_release_worse_than_agreed_rarely_passes():
    row = measure(BY_NAME["grey 12 %"], range(300, 320))
    print(render([row]))
    assert row.halted >= 0.9


def test_the_command_prints_its_tier_and_fails_when_a_target_is_missed(capsys):
    assert main(["--runs", "2", "--release", "60", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["tier"] == "core"
    assert printed["rows"][0]["halted"] == 1.0
    # A threshold nothing reaches leaves halting to the gates alone, and lets more devices be harmed.
    assert main(["--runs", "6", "--release", "good 2", "--halt-threshold", "1"]) == 1
    assert "missed: good 2 %" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["20 % bad, half brick", "20 % silent brick", "60 % brick"])
def test_over_many_fleets_a_bad_release_harms_few_and_is_always_halted(name, record_property):
    seeds = range(1_000, 1_300)
    record_property("seeds", f"{seeds.start}-{seeds.stop - 1}")
    row = measure(BY_NAME[name], seeds)
    record_property("figures", render([row]))
    assert row.harmed_p95 <= 10
    assert row.halted == 1.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_over_many_fleets_a_release_failing_on_two_percent_is_rarely_halted(record_property):
    seeds = range(2_000, 2_200)
    record_property("seeds", f"{seeds.start}-{seeds.stop - 1}")
    row = measure(BY_NAME["good 2 %"], seeds)
    record_property("figures", render([row]))
    # The bar is 3 %; in 200 runs a true 3 % shows as up to 5.4 % (two standard errors).
    assert row.halted <= 0.054
