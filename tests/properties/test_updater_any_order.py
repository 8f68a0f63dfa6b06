"""Single events in any order, stale and repeated ones among them: finds broken replay and impossible states."""

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import Judgement
from agent.core.journal import decode_state, encode_state
from agent.core.policy import Policy
from agent.core.state import MAX_HISTORY, Asked, Release, Step, UpdaterState
from agent.core.updater import update
from bundles.wire.messages import Profile

PROFILE = Profile(probation_s=10, accept_s=20, download_s=30, activate_s=15)
RELEASES = [Release(f"t/m/{n}.0.0/bundle.json", f"{n}" * 64, 100, n) for n in range(1, 6)]
FACTORY = Release("t/m/0.1.0/bundle.json", "f" * 64, 100, 0)
NEVER_AUTHORIZED = RELEASES[4]
DIGESTS = [release.sha256 for release in RELEASES]
POLICY = Policy(max_transitions=4)  # low, so that stories of this length meet it
SEEN: Counter[str] = Counter()
REASONS: Counter[str] = Counter()
FACTORY_SEEN: Counter[str] = Counter()

sha = st.sampled_from(DIGESTS)
authorized_sha = st.sampled_from(DIGESTS[:4])
wait_ms = st.sampled_from([0, 1, 2, 3, 5, 10, 50, 100, 200, 500, 2_000, 10_000, 16_000, 31_000, 700_000])
draw = st.sampled_from([0.0, 0.3, 0.999])
code = st.sampled_from(
    [
        "DISK_FULL",
        "DOWNLOAD_DIGEST",
        "DOWNLOAD_INTERRUPTED",
        "STORE_CORRUPT",
        "MODEL_INVALID",
        "NO_VARIANT",
        "TRUST_FLOOR",
        "CONDITION_BATTERY",
        "CONDITION_MEMORY",
    ]
)
condition = st.sampled_from([f"CONDITION_{word}" for word in ("WINDOW", "LOCK", "BATTERY", "METERED")] + ["DISK_FULL"])
stage = st.sampled_from(["download", "activate"])
effect_kind = st.sampled_from(["authorize", "admit", "download", "verify", "stage", "activate", "revert", "serve"])
judgement = st.sampled_from(
    [Judgement("healthy"), Judgement("healthy"), Judgement("unknown", "no_data"), Judgement("unhealthy", "crash")]
)
safe_mode = st.sampled_from([None, "keep_with_alarm", "constant", "stop"])
asked = st.builds(
    lambda gen, release, rollout: Asked(gen, release, rollout, PROFILE),
    st.integers(1, 30),
    st.one_of(st.none(), *[st.just(r) for r in RELEASES] * 3),
    st.sampled_from(["", "r1", "r2"]),
)
# What the step at work waits for, so that long ways are walked often; the rest is drawn blindly.
fitting = st.just("fitting")
blind = st.one_of(
    asked.map(lambda a: lambda at: ev.DesiredChanged(at, a)),
    authorized_sha.map(lambda s: lambda at: ev.Authorized(at, s)),
    st.tuples(sha, code).map(lambda t: lambda at: ev.Refused(at, t[0], t[1])),
    st.tuples(sha, stage).map(lambda t: lambda at: ev.Admitted(at, *t)),
    st.tuples(condition, st.sampled_from([0, 7, 90_000])).map(lambda t: lambda at: put_off(at, *t)),
    st.just(lambda at: ev.ConditionsChanged(at)),
    st.just(lambda at: ev.RetryRequested(at, "ann")),
    sha.map(lambda s: lambda at: ev.Downloaded(at, s, "1", "v")),
    sha.map(lambda s: lambda at: ev.Verified(at, s)),
    sha.map(lambda s: lambda at: ev.Staged(at, s)),
    st.tuples(sha, code).map(lambda t: lambda at: ev.TrialFailed(at, t[0], t[1])),
    st.one_of(sha, st.just("")).map(lambda s: lambda at: ev.Activated(at, s)),
    st.tuples(sha, judgement).map(lambda t: lambda at: ev.HealthSeen(at, *t)),
    st.just(lambda at: ev.ContactSeen(at)),
    st.just(lambda at: ev.Ticked(at)),
    st.tuples(effect_kind, sha, code, st.booleans(), draw).map(
        lambda t: lambda at: ev.EffectFailed(at, t[0], t[1], t[2], t[3], "", t[4])
    ),
    sha.map(lambda s: lambda at: ev.RollbackRequested(at, "ann", s)),
    st.sampled_from([None, FACTORY]).map(lambda factory: lambda at: ev.Booted(at, None, factory)),
    st.tuples(st.frozensets(sha, max_size=3), safe_mode).map(lambda t: lambda at: ev.StandingSeen(at, *t)),
)
story = st.lists(st.tuples(wait_ms, st.one_of(*[fitting] * 6, blind)), min_size=40, max_size=80)


class put_off:  # noqa: N801 (reads as an event; the release is known only when it is told)
    """A condition speaks against what is being asked for."""

    def __init__(self, at, code, wait_ms):
        self.at_ms, self.code, self.wait_ms = at, code, wait_ms

    def of(self, s):
        sha256 = s.target.sha256 if s.target else ""
        return ev.EffectFailed(self.at_ms, "admit", sha256, self.code, True, "not now", 0.5, self.wait_ms)


FRESH = UpdaterState("t/m")
RUNNING = UpdaterState(
    "t/m",
    Step.CONFIRMED,
    gen=2,
    profile=PROFILE,
    target=RELEASES[1],
    committed=RELEASES[1],
    previous=RELEASES[0],
    floor=1,
)
ON_PROBATION = replace(
    RUNNING,
    step=Step.PROBATION,
    gen=3,
    target=RELEASES[2],
    attempts=1,
    since_ms=900,
    deadline_ms=25_900,
    retry_ms=2_150,
)
# Touched what answers as often as it may: what comes next is its last.
AT_THE_BOUND = replace(ON_PROBATION, step=Step.STAGING, asks="activate", transitions=POLICY.max_transitions, retry_ms=0)


def fitting_event(s: UpdaterState, at: int) -> ev.Event:
    target = s.target.sha256 if s.target else DIGESTS[0]
    if s.asks and at % 9:
        return ev.Admitted(at, target, s.asks)
    if s.asks:
        return ev.EffectFailed(at, "admit", target, "CONDITION_LOCK", True, "held")
    match s.step:
        case Step.AUTHORIZING if target != NEVER_AUTHORIZED.sha256:
            return ev.Authorized(at, target)
        case Step.DOWNLOADING:
            return ev.Downloaded(at, target, "1", "v")
        case Step.VERIFYING:
            return ev.Verified(at, target)
        case Step.STAGING:
            return ev.Staged(at, target)
        case Step.ACTIVATING:
            return ev.Activated(at, target)
        case Step.PROBATION:
            if not s.has_contact and at % 3:
                return ev.ContactSeen(at)
            if at % 5 == 0:
                return ev.HealthSeen(at, target, Judgement("healthy"))
            return ev.HealthSeen(max(at, s.since_ms + 10_000), target, Judgement("healthy"))
        case Step.REVERTING:
            return ev.Activated(at, s.revert_to.sha256 if s.revert_to else "")
        case Step.DEFERRED:
            return ev.Ticked(max(at, s.due_ms))
        case _:
            release = RELEASES[(s.asked_gen + 1) % 4]
            return ev.DesiredChanged(at, Asked(s.asked_gen + 1, release, f"r{s.asked_gen % 3}", PROFILE))


def check_permitted(after: UpdaterState, release: Release | None, mode: str) -> None:
    """What is forbidden is returned to only where there is nothing else, and then as its bundle declares."""
    if after.is_revoked(release):
        assert all(after.is_revoked(r) for r in after.ways_back)
        assert mode == after.declared
    else:
        assert mode == ""


def check_conditions(before: UpdaterState, event: ev.Event, after: UpdaterState) -> None:
    """What puts an update off costs nothing; the last bound of loops holds whatever happens."""
    is_condition = isinstance(event, ev.EffectFailed) and event.effect == "admit" and event.code.startswith("CONDITION")
    if is_condition or isinstance(event, ev.ConditionsChanged):
        for count in ("attempts", "recoveries", "transitions", "wrong_content", "deferrals", "tried", "target"):
            assert getattr(after, count) == getattr(before, count), count
    if is_condition and after != before:
        assert (after.step, after.asks) == (Step.DEFERRED, before.asks)
        assert event.at_ms < after.retry_ms <= event.at_ms + 30_000
    if after.step is Step.ACTIVATING and before.step is not Step.ACTIVATING and not isinstance(event, ev.Booted):
        assert before.transitions < POLICY.max_transitions or after.gen != before.gen


def check_step(before: UpdaterState, event: ev.Event, after: UpdaterState, effects: tuple[fx.Effect, ...]) -> None:
    journals = [i for i, effect in enumerate(effects) if isinstance(effect, fx.Journal)]
    if after.durable() != before.durable():
        assert journals == [0], "what is durable is journalled before anything is done"
        assert effects[0].state == after
    else:
        assert journals == []
    committed = {r.sha256 for r in after.ways_back}
    for effect in effects:
        match effect:
            case fx.Activate(release):
                assert after.step is Step.ACTIVATING
                assert release == after.target
                assert 1 <= after.attempts <= POLICY.max_attempts
                assert release.sha256 != NEVER_AUTHORIZED.sha256, "what trust did not allow is never activated"
            case fx.Admit(release, stage):
                assert (release, stage) == (after.target, after.asks)
                assert after.step in (Step.AUTHORIZING, Step.STAGING, Step.DEFERRED)
            case fx.Revert(to, mode):
                known = (before.committed, before.previous, before.factory, after.factory, before.revert_to)
                assert to is None or to in known
                check_permitted(after, to, mode)
                assert to is not None or not after.committed or after.pending or after.target is None
                wanted = after.target is not None and after.landing is not Step.IDLE
                sound = [r for r in after.ways_back if not after.is_revoked(r) and r != after.committed]
                assert to is not None or not (wanted and sound), "nothing answers though something could"
            case fx.Serve(release, mode) if not isinstance(event, ev.EffectFailed):
                check_permitted(after, release, mode)
            case fx.TellSafeMode(sha256, mode):
                assert mode == after.safe_mode != before.safe_mode
                assert not mode or sha256 in after.revoked
            case fx.CollectGarbage(keep):
                assert committed <= keep
            case fx.RaiseFloor(_, counter):
                assert counter == after.floor
            case fx.Commit():
                assert before.step in (Step.PROBATION, Step.ACTIVATING)
                if before.step is Step.PROBATION:
                    assert event.at_ms - before.since_ms >= 10_000
                    assert after.has_contact
    check_conditions(before, event, after)
    assert len(after.history) <= MAX_HISTORY
    assert after.history == before.history or after.history[-1].step == after.step
    if not after.step.is_rest and not (after.step is Step.DEFERRED and after.reason == "offline"):
        assert after.due_ms, f"{after.step} waits without end"
    assert after.asked_gen >= before.asked_gen
    assert after.floor >= before.floor
    # Never above what runs; a model taken out and put in again keeps the floor it earned.
    if after.committed and before.committed:
        assert after.floor <= max(after.committed.counter, before.floor)
    assert len(after.tried) <= 8
    if isinstance(event, ev.StandingSeen) and after.step not in (Step.REVERTING, Step.ACTIVATING, Step.PROBATION):
        assert not after.is_revoked(after.previous)
        assert not (after.is_revoked(after.target) and after.step.is_before_activation)
        assert after.is_revoked(after.committed) == bool(after.safe_mode), "forbidden and alone, or neither"


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([FRESH, RUNNING, ON_PROBATION, AT_THE_BOUND]), story)
@example(AT_THE_BOUND, [(1, "fitting")])  # the last bound, and the factory release, in every run
@example(FRESH, [(1, lambda at: ev.Booted(at, None, FACTORY))])
def test_events_in_any_order_break_no_rule(start, events):
    state, at = start, 1_000
    for wait, make in events:
        at += wait
        event = fitting_event(state, at) if make == "fitting" else make(at)
        event = event.of(state) if isinstance(event, put_off) else event
        at = max(at, event.at_ms)
        after, effects = update(state, event, POLICY)
        check_step(state, event, after, effects)
        if not isinstance(event, ev.Booted):
            assert update(after, event, POLICY) == (after, ()), "the same event twice changes nothing"
        assert decode_state(encode_state(after)) == after
        state = after
        SEEN[state.step] += 1
        REASONS[state.reason] += 1
        FACTORY_SEEN["known"] += state.factory is not None
        FACTORY_SEEN["committed"] += state.committed == FACTORY


def test_every_step_was_reached():
    print("steps reached:", dict(sorted(SEEN.items())))
    print("reasons reached:", dict(sorted(REASONS.items())), "factory:", dict(FACTORY_SEEN))
    assert set(SEEN) == set(Step)
    assert {"lock", "loop"} <= set(REASONS), "conditions, and the last bound of loops"
    assert FACTORY_SEEN["committed"], "the factory release"
