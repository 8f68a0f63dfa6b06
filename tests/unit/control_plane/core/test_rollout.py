"""The reconciler, case by case: among them the traps other systems fell into."""

import json
from dataclasses import replace

import pytest

from control_plane.core.explain import explain
from control_plane.core.gates import GateResult, Verdict, required_gates
from control_plane.core.plan import make_plan
from control_plane.core.policy import OnFail
from control_plane.core.rollout import (
    AbortRequested,
    Approved,
    DeviceMoved,
    ExpireDevices,
    GateJudged,
    HaltRequested,
    Notify,
    OfferWave,
    Overridden,
    PauseRequested,
    Record,
    Rejected,
    RequestJudgement,
    Resumed,
    RollBack,
    Started,
    SupersededBy,
    Ticked,
    TopUpWave,
    WithdrawOffers,
    decode_state,
    encode_state,
    new_rollout,
    reconcile,
    refusal,
)
from control_plane.core.spec import WaveSpec
from control_plane.core.states import DeviceState, PauseReason, RolloutPhase, WavePhase
from control_plane.errors import Conflict
from control_plane.simulation.scenarios import BASELINE, demo_spec, make_devices

S = DeviceState
T0 = 1_000_000


class Play:
    """Feeds events and keeps the effects; time moves with ``at``."""

    def __init__(self, devices=60, waves=None, has_incumbent=True, **policy):
        spec = demo_spec(1, has_incumbent=has_incumbent)
        spec = replace(spec, waves=waves or spec.waves, policy=replace(spec.policy, **policy))
        fleet = make_devices(devices, ("cam-a", "cam-b"), BASELINE if has_incumbent else "", frozenset())
        self.spec, self.now, self.last = spec, T0, ()
        self.state = new_rollout(spec, make_plan(spec, fleet), T0)

    def __call__(self, event):
        self.state, self.last = reconcile(self.state, event)
        return self

    def begin(self):
        return self(Approved("second person", self.state.spec_sha256, T0))(Started(T0))

    def move(self, previous, new, count=1, wave=None, stratum="cam-a", reason=""):
        wave = self.state.wave if wave is None else wave
        return self(DeviceMoved(wave, stratum, previous, new, self.now, reason, count=count))

    def tick(self, seconds=0.0):
        self.now += int(seconds * 1000)
        return self(Ticked(self.now))

    def confirm(self, count):
        self.move(S.QUEUED, S.OFFERED, count).move(S.OFFERED, S.PROBATION, count)
        return self.move(S.PROBATION, S.CONFIRMED, count)

    def judge(self, **verdicts):
        wave = self.state.current
        predicted = dict(wave.not_applicable)
        results = []
        for gate in required_gates(self.state.policy):
            verdict, reason = verdicts.get(gate, Verdict.PASS), "said"
            if gate in predicted and gate not in verdicts:
                verdict, reason = Verdict.NOT_APPLICABLE, predicted[gate]
            results.append(GateResult(gate, verdict, reason, f"{gate} said {verdict.value}"))
        return self(GateJudged(wave.index, wave.look, tuple(results), "e" * 64, self.now))

    def soak(self, **verdicts):
        """Go through every look of the soak; ``verdicts`` hold at the last."""
        for look in range(1, self.state.policy.looks + 1):
            self.tick(3)
            assert any(isinstance(effect, RequestJudgement) for effect in self.last)
            self.judge(**(verdicts if look == self.state.policy.looks else {}))
        return self

    def has(self, kind):
        return [effect for effect in self.last if isinstance(effect, kind)]


def test_approval_then_start_offers_the_first_wave_only():
    play = Play()
    assert play.state.phase is RolloutPhase.PENDING_APPROVAL
    play.begin()
    assert play.state.phase is RolloutPhase.RUNNING
    assert play.has(OfferWave) == [OfferWave(0)]
    assert play.state.exposed == (0,)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Approved("author", "", T0), "another person"),
        (Approved("second", "edited", T0), "another version"),
        (Started(T0), "pending_approval"),
        (Resumed("x", T0), "pending_approval"),
        (Overridden("x", "y", T0), "could not decide"),
        (HaltRequested("x", "y", T0), "pending_approval"),
    ],
)
def test_what_does_not_fit_is_refused_in_words_and_changes_nothing(event, why):
    play = Play()
    if isinstance(event, Approved) and not event.spec_sha256:
        event = replace(event, spec_sha256=play.state.spec_sha256)
    assert why in refusal(play.state, event)
    assert reconcile(play.state, event) == (play.state, ())


def test_a_good_rollout_is_promoted_wave_by_wave_to_completion():
    play = Play().begin().confirm(16)
    assert play.state.current.phase is WavePhase.SOAKING
    play.soak()
    assert (play.state.wave, play.has(OfferWave)) == (1, [OfferWave(1)])
    play.confirm(44).soak()
    assert play.state.phase is RolloutPhase.COMPLETED
    assert play.state.next_timer_ms is None
    assert [wave.phase for wave in play.state.waves] == [WavePhase.PROMOTED] * 2


def test_all_terminal_is_no_promotion_while_a_gate_fails():
    play = Play().begin().confirm(13)
    play.move(S.QUEUED, S.OFFERED, 3).move(S.OFFERED, S.FAILED, 2, stratum="cam-b", reason="oom")
    play.move(S.OFFERED, S.FAILED, 1, stratum="cam-b", reason="oom").tick(3).judge()
    assert play.state.phase is RolloutPhase.ROLLING_BACK
    assert play.state.halt.gate == "install"
    assert play.has(RollBack) == [RollBack((0,), "too_many_failures")]
    assert "3 of 16" in play.state.halt.sentence
    assert play.state.waves[0].at_halt.failed == 3


def test_a_burst_of_failures_halts_at_once_and_names_the_stratum():
    play = Play().begin().move(S.QUEUED, S.OFFERED, 16)
    play.move(S.OFFERED, S.FAILED, 2, stratum="cam-b", reason="oom")
    assert play.state.phase is RolloutPhase.RUNNING, "two are not a burst"
    play.move(S.OFFERED, S.FAILED, stratum="cam-b", reason="oom")
    assert play.state.phase is RolloutPhase.ROLLING_BACK
    assert play.state.halt.gate == "install_cusum"
    assert "cam-b" in play.state.halt.sentence


def test_one_failure_never_halts_and_a_group_of_one_proves_nothing():
    play = Play(waves=(WaveSpec(soak_s=12, count=2), WaveSpec(soak_s=12, rest=True))).begin()
    play.move(S.QUEUED, S.OFFERED, 2).move(S.OFFERED, S.FAILED, reason="oom")
    assert play.state.phase is RolloutPhase.RUNNING
    play.move(S.OFFERED, S.CONFIRMED).soak()
    assert play.state.wave == 0
    assert play.has(TopUpWave) == [TopUpWave(0, ((1, 1),))]


def test_early_success_does_not_excuse_a_bad_third_wave():
    waves = tuple(WaveSpec(soak_s=12, count=n) for n in (16, 200, 84))
    play = Play(devices=300, waves=waves).begin().confirm(16).soak().confirm(200).soak()
    play.move(S.QUEUED, S.OFFERED, 84)
    while play.state.phase is RolloutPhase.RUNNING:
        play.move(S.OFFERED, S.FAILED, reason="health")
    assert play.state.waves[2].installs.failures <= 4
    assert play.has(RollBack)[0].waves == (0, 1, 2)


def test_good_devices_that_answer_first_do_not_hide_silent_ones():
    waves = (WaveSpec(soak_s=12, count=50), WaveSpec(soak_s=12, rest=True))
    play = Play(devices=100, waves=waves).begin().confirm(40)
    play.move(S.QUEUED, S.OFFERED, 10).move(S.OFFERED, S.STAGED, 10)
    play.move(S.STAGED, S.UNRESPONSIVE, 10, reason="deadline")
    assert play.state.phase is RolloutPhase.ROLLING_BACK


def test_a_good_release_is_not_halted_by_the_order_outcomes_arrive_in():
    waves = (WaveSpec(soak_s=12, count=400), WaveSpec(soak_s=12, rest=True))
    play = Play(devices=500, waves=waves).begin()
    play.move(S.QUEUED, S.OFFERED, 400).move(S.OFFERED, S.ACTIVATING, 400)
    play.move(S.ACTIVATING, S.FAILED, 4, reason="health")  # who can speak fails first
    play.move(S.ACTIVATING, S.CONFIRMED, 392)
    play.move(S.ACTIVATING, S.UNRESPONSIVE, 4, reason="deadline")  # who cannot is noticed last
    assert play.state.phase is RolloutPhase.RUNNING
    assert play.soak().state.wave == 1


def test_an_empty_group_is_not_a_success():
    play = Play().begin().move(S.QUEUED, S.OFFERED, 16).move(S.OFFERED, S.DEFERRED, 16, reason="offline")
    assert play.state.wave == 0
    assert play.has(TopUpWave) == [TopUpWave(0, ((1, 8),))]
    play.move(S.QUEUED, S.OFFERED, 8).move(S.OFFERED, S.DEFERRED, 8, reason="offline")
    assert play.state.phase is RolloutPhase.RUNNING
    assert play.state.current.tally.total == 36


def test_nobody_there_at_all_ends_with_a_person():
    play = Play(waves=(WaveSpec(soak_s=12, rest=True),)).begin()
    play.move(S.QUEUED, S.OFFERED, 60).move(S.OFFERED, S.DEFERRED, 60, reason="offline")
    assert (play.state.phase, play.state.pause) == (RolloutPhase.PAUSED, PauseReason.NO_DATA)
    assert play.state.next_timer_ms is not None


def test_an_absent_device_holds_no_wave_for_ever():
    play = Play().begin().confirm(16).soak().confirm(40)
    assert play.state.current.phase is WavePhase.OFFERING
    play.move(S.QUEUED, S.OFFERED, 4)
    play.tick(1)
    assert play.has(ExpireDevices) == [ExpireDevices((0, 1), play.now)]
    play.move(S.OFFERED, S.DEFERRED, 4, reason="offline").soak()
    assert play.state.phase is RolloutPhase.COMPLETED
    play.move(S.DEFERRED, S.DOWNLOADING)
    assert play.state.next_timer_ms is not None, "the tail is watched"
    assert play.move(S.DOWNLOADING, S.CONFIRMED).state.phase is RolloutPhase.COMPLETED


def test_a_tail_that_fails_is_closed_and_told():
    play = Play().begin().confirm(16).soak().confirm(34)
    play.move(S.QUEUED, S.OFFERED, 10).move(S.OFFERED, S.DEFERRED, 10, reason="offline").soak()
    for _ in range(10):
        play.move(S.DEFERRED, S.FAILED, reason="health")
        if play.state.is_tail_closed:
            break
    assert play.state.phase is RolloutPhase.COMPLETED, "terminal stays terminal"
    assert play.has(WithdrawOffers)
    assert play.has(Notify)[0].kind == "tail_failing"


def test_promotion_waits_for_a_device_inside_its_deadline():
    play = Play().begin().confirm(16)
    play.tick(3).judge().tick(3).judge().tick(3).judge()
    # A seventeenth device takes the offer late in the soak, and then vanishes.
    play.move(S.CONFIRMED, S.REGRESSED).tick(3)
    assert play.has(RequestJudgement)[0].is_final
    late = Play().begin().confirm(15).move(S.QUEUED, S.OFFERED).move(S.OFFERED, S.DEFERRED)
    late.tick(3).judge().tick(3).judge().tick(3).judge()
    late.move(S.DEFERRED, S.DOWNLOADING).tick(3)
    assert not late.has(RequestJudgement)
    assert late.state.current.phase is WavePhase.SOAKING
    late.move(S.DOWNLOADING, S.UNRESPONSIVE, reason="deadline").tick(3)
    assert late.has(RequestJudgement)


def test_pause_recalls_offers_nobody_took_and_resume_watches_the_wave_anew():
    play = Play().begin().move(S.QUEUED, S.OFFERED, 16).move(S.OFFERED, S.PROBATION, 10)
    play(PauseRequested("ops", "wait", play.now))
    assert play.has(WithdrawOffers) == [WithdrawOffers((0,))]
    play.move(S.OFFERED, S.QUEUED, 6).move(S.PROBATION, S.CONFIRMED, 10).tick(60)
    assert play.state.phase is RolloutPhase.PAUSED
    assert play.state.current.phase is WavePhase.OFFERING
    play(Resumed("ops", play.now))
    assert play.has(OfferWave) == [OfferWave(0)]
    play.confirm(6)
    assert play.state.current.soak_began_ms == play.now


def test_a_paused_rollout_still_halts():
    play = Play().begin().move(S.QUEUED, S.OFFERED, 16).move(S.OFFERED, S.ACCEPTED, 16)
    play(PauseRequested("ops", "wait", play.now)).move(S.ACCEPTED, S.FAILED, 6, reason="oom")
    assert play.state.phase is RolloutPhase.ROLLING_BACK


def test_a_failed_wave_is_never_resumed_overridden_or_promoted():
    play = Play(on_fail=OnFail.PAUSE).begin().confirm(16)
    play.tick(3).judge(output=Verdict.FAIL)
    assert play.state.phase is RolloutPhase.HALTED
    for event in (
        Resumed("ops", play.now),
        Overridden("ops", "trust me", play.now),
        PauseRequested("ops", "", play.now),
    ):
        assert refusal(play.state, event)
        play(event)
    assert play.state.phase is RolloutPhase.HALTED
    assert play.state.current.phase is WavePhase.FAILED
    play.tick(20 * 86_400)
    assert play.state.phase is RolloutPhase.ROLLING_BACK, "nobody came: it ends on the safe side"


def test_an_undecided_wave_asks_a_person_who_may_promote_it():
    play = Play(top_up_limit=0).begin().confirm(16).soak(output=Verdict.INCONCLUSIVE)
    assert (play.state.phase, play.state.pause) == (RolloutPhase.PAUSED, PauseReason.INCONCLUSIVE)
    assert "a person" in explain(play.state).waits_for
    play(Overridden("ops", "looked at the pictures", play.now))
    assert (play.state.phase, play.state.wave) == (RolloutPhase.RUNNING, 1)
    records = play.has(Record)
    assert records[0].actor == "ops"
    assert "looked at the pictures" in records[0].reason


def test_missing_telemetry_gives_more_time_once_and_never_more_devices():
    play = Play().begin().confirm(16).soak(error_rate=Verdict.NO_DATA)
    assert not play.has(TopUpWave)
    assert play.state.current.is_extended
    assert play.state.current.phase is WavePhase.SOAKING
    play.soak(error_rate=Verdict.NO_DATA)
    assert (play.state.phase, play.state.pause) == (RolloutPhase.PAUSED, PauseReason.NO_DATA)


def test_a_gate_that_gave_no_answer_is_no_data_and_not_applicable_must_be_foreseen():
    play = Play().begin().confirm(16)
    play.tick(3).judge().tick(3).judge().tick(3).judge().tick(3)
    only_install = (GateResult("install", Verdict.PASS, "x", "x"),)
    play(GateJudged(0, 4, only_install, "", play.now))
    assert {one.gate: one.verdict for one in play.state.current.results}["output"] is Verdict.NO_DATA
    other = Play().begin().confirm(16).tick(3)
    other.judge(output=Verdict.NOT_APPLICABLE)
    assert {one.gate: one.reason for one in other.state.current.results}["output"] == "not_foreseen"


def test_an_environment_shift_pauses_rather_than_blames():
    play = Play().begin().confirm(16).tick(3).judge(output=Verdict.ENV_SHIFT)
    assert play.state.pause is PauseReason.ENV_SHIFT


def test_a_stale_or_repeated_judgement_changes_nothing():
    play = Play().begin().confirm(16).tick(3)
    stale = GateJudged(0, 3, (), "", play.now)
    assert reconcile(play.state, stale) == (play.state, ())
    play.judge()
    after = play.state
    play(GateJudged(0, 1, (), "", play.now))
    assert play.state == after


def test_an_overdue_judgement_is_asked_for_again():
    play = Play().begin().confirm(16).tick(3)
    assert play.has(RequestJudgement)
    assert not play.tick(0.2).has(RequestJudgement)
    assert play.tick(1).has(RequestJudgement)


def test_roll_back_ends_when_everyone_exposed_is_accounted_for():
    play = Play().begin().confirm(14).move(S.QUEUED, S.OFFERED, 2)
    play(HaltRequested("ops", "smoke", play.now))
    assert play.state.halt.actor == "ops"
    play.move(S.OFFERED, S.CANCELED, 2).move(S.CONFIRMED, S.ROLLING_BACK, 14)
    play.move(S.ROLLING_BACK, S.ROLLED_BACK, 13)
    assert play.state.phase is RolloutPhase.ROLLING_BACK
    play.move(S.ROLLING_BACK, S.ROLLED_BACK)
    assert play.state.phase is RolloutPhase.ROLLED_BACK
    assert play.state.waves[0].installs.confirmed == 14, "what it proved stays told"


def test_a_roll_back_that_does_not_end_is_called_incomplete():
    play = Play().begin().confirm(16)
    play(HaltRequested("ops", "smoke", play.now)).move(S.CONFIRMED, S.ROLLING_BACK, 16)
    play.move(S.ROLLING_BACK, S.ROLLED_BACK, 15).tick(61)
    assert play.state.phase is RolloutPhase.ROLLBACK_INCOMPLETE
    assert "1 devices have not confirmed" in explain(play.state).headline
    late = play.move(S.ROLLING_BACK, S.ROLLED_BACK).state
    assert late.phase is RolloutPhase.ROLLBACK_INCOMPLETE
    assert late.waves[0].tally.rolled_back == 16


@pytest.mark.parametrize(
    "event",
    [
        AbortRequested("ops", "x", T0),
        HaltRequested("ops", "x", T0),
        Resumed("ops", T0),
        SupersededBy("next", T0),
        Started(T0),
        Rejected("ops", "x", T0),
    ],
)
def test_cancel_after_success_and_everything_else_is_refused(event):
    play = Play().begin().confirm(16).soak().confirm(44).soak()
    assert refusal(play.state, event)
    assert reconcile(play.state, event) == (play.state, ())


def test_abort_stops_where_it_stands():
    play = Play().begin().confirm(10).move(S.QUEUED, S.OFFERED, 6)
    play(AbortRequested("ops", "enough", play.now))
    assert play.state.phase is RolloutPhase.ABORTED
    assert play.has(WithdrawOffers) == [WithdrawOffers((0,))]
    assert not play.has(RollBack)


@pytest.mark.parametrize("is_approved", [False, True])
def test_a_rollout_nobody_approves_or_starts_expires(is_approved):
    play = Play()
    if is_approved:
        play(Approved("second", play.state.spec_sha256, T0))
    play.tick(15 * 86_400)
    assert play.state.phase is RolloutPhase.EXPIRED


def test_a_paused_rollout_reminds_and_then_expires():
    play = Play().begin()(PauseRequested("ops", "wait", T0))
    assert play.tick(86_400).has(Notify)[0].kind.startswith("reminder")
    assert play.tick(14 * 86_400).state.phase is RolloutPhase.EXPIRED


def test_an_illegal_move_fails_loudly_and_leaves_the_state_as_it_was():
    play = Play().begin()
    for event in (
        DeviceMoved(0, "cam-a", S.CONFIRMED, S.QUEUED, T0),
        DeviceMoved(0, "cam-a", S.OFFERED, S.ACCEPTED, T0),
        DeviceMoved(7, "cam-a", S.QUEUED, S.OFFERED, T0),
        DeviceMoved(0, "cam-a", S.QUEUED, S.OFFERED, T0, count=17),
    ):
        with pytest.raises(Conflict) as refused:
            reconcile(play.state, event)
        assert refused.value.code == "ROLLOUT_MOVE"


def test_deleting_a_queued_device_does_not_make_a_wave_succeed():
    play = Play().begin().move(S.QUEUED, S.CANCELED, 15).confirm(1)
    play.soak()
    assert play.state.wave == 0
    assert play.has(TopUpWave)


def test_state_is_small_and_survives_storing_whatever_the_fleet():
    play = Play(devices=5000, waves=(WaveSpec(soak_s=12, count=16), WaveSpec(soak_s=12, rest=True)))
    play.begin().confirm(16).soak()
    text = json.dumps(encode_state(play.state))
    assert decode_state(json.loads(text)) == play.state
    assert len(text) < 12_000
    with pytest.raises(Conflict):
        decode_state({**json.loads(text), "v": 99})
    with pytest.raises(Conflict):
        decode_state({"v": 1})


def test_explain_tells_the_numbers_at_every_step():
    play = Play()
    assert "1 more approval" in explain(play.state).headline
    play.begin().confirm(10).move(S.QUEUED, S.OFFERED, 6)
    told = explain(play.state)
    assert "6 offers" in told.waits_for
    assert "10 clean devices prove fewer than 25.9% failures; 16 are needed" in told.text
    play.move(S.OFFERED, S.PROBATION, 6).move(S.PROBATION, S.CONFIRMED, 6)
    play.tick(3).judge(latency_p95=Verdict.FAIL)
    told = explain(play.state)
    assert "gate latency_p95" in told.headline
    assert "to be seen on their previous bundle" in told.waits_for
    assert json.loads(json.dumps(told.encode()))["waves"][0]["confirmed"] == 16
    assert told.exposed == 16
    assert told.harmed == 0
