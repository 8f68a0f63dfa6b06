"""What must hold after every event, whatever happened: read by both styles of property test and by long simulations.

Each rule is one of the design's "properties both cores must hold".
"""

from __future__ import annotations

import json

from control_plane.core.gates import Verdict
from control_plane.core.rollout import (
    DeviceMoved,
    Effect,
    Event,
    OfferWave,
    Overridden,
    RequestJudgement,
    RollBack,
    Rollout,
    TopUpWave,
    decode_state,
    encode_state,
    reconcile,
)
from control_plane.core.states import DeviceState as S
from control_plane.core.states import RolloutPhase, WavePhase


def broken_rules(before: Rollout, event: Event, after: Rollout, effects: tuple[Effect, ...]) -> list[str]:
    """Return the rules ``before + event -> after + effects`` breaks, in words."""
    broken = []
    if before.phase.is_terminal and (after.phase is not before.phase or after.wave != before.wave):
        broken.append(f"terminal {before.phase} became {after.phase}")
    if after.wave < before.wave:
        broken.append(f"wave fell from {before.wave} to {after.wave}")
    if not after.phase.is_terminal and after.next_timer_ms is None:
        broken.append(f"{after.phase} waits without a timer")
    if before.total.total != after.total.total:
        broken.append("devices appeared or vanished")
    if decode_state(json.loads(json.dumps(encode_state(after)))) != after:
        broken.append("state is not the same after storing")
    if after != before and after.version != before.version + 1:
        broken.append("a change without a new version")
    if not isinstance(event, DeviceMoved):
        again, more = reconcile(after, event)
        if again != after or more:
            broken.append(f"told twice, {type(event).__name__} changed something")
    return broken + _effects(after, effects) + _promotions(before, event, after)


def _effects(after: Rollout, effects: tuple[Effect, ...]) -> list[str]:
    broken = []
    for effect in effects:
        if isinstance(effect, OfferWave | TopUpWave | RequestJudgement):
            if after.phase is not RolloutPhase.RUNNING:
                broken.append(f"{type(effect).__name__} while {after.phase}")
            if effect.wave > after.wave or not after.waves[effect.wave].began_ms:
                broken.append(f"wave {effect.wave} was asked to move before its turn")
            if after.waves[effect.wave].phase is WavePhase.FAILED:
                broken.append("a failed wave goes on")
        if isinstance(effect, RollBack):
            untouched = (S.QUEUED, S.SKIPPED, S.SUPERSEDED, S.CANCELED)
            exposed = {wave.index for wave in after.waves if wave.tally.total > wave.tally.of(*untouched)}
            if not exposed <= set(effect.waves):
                broken.append(f"roll back of {effect.waves} leaves out some of {sorted(exposed)}")
    return broken


def _promotions(before: Rollout, event: Event, after: Rollout) -> list[str]:
    broken = []
    for old, new in zip(before.waves, after.waves, strict=True):
        if new.phase is old.phase:
            continue
        if old.phase in (WavePhase.FAILED, WavePhase.PROMOTED) and old.phase is not new.phase:
            # A later wave's failure condemns only itself; promoted waves stay promoted, failed ones failed.
            broken.append(f"wave {old.index} went from {old.phase} to {new.phase}")
        is_absorbed = new.tally.total == 0 and not new.began_ms
        if new.phase is WavePhase.PROMOTED and not isinstance(event, Overridden) and not is_absorbed:
            predicted = dict(new.not_applicable)
            for one in new.results:
                foreseen = one.verdict is Verdict.NOT_APPLICABLE and predicted.get(one.gate) == one.reason
                if one.verdict is not Verdict.PASS and not foreseen:
                    broken.append(f"promoted although {one.gate} said {one.verdict}")
            if not new.results:
                broken.append("promoted without a judgement")
            if new.tally.resolved < 0.95 * new.tally.engaged:
                broken.append("promoted before enough devices were resolved")
            if event.at_ms < old.soak_began_ms + int(new.soak_s * 1000):
                broken.append("promoted before the soak was over")
    return broken
