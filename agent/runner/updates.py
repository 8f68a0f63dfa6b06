"""Runs the updater of each model: offers events, journals, then carries out effects in the order given.

Reports, timers and cancellations are carried out at once, on the schedule's line. All others wait in one lane a model
and run in the background one at a time, so that an activation and the revert behind it never meet, and nothing is
collected before the commit it follows. Leaves what each of them does to the handlers handed in, and every decision to
``agent.core.updater``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.journal import encode_state
from agent.core.policy import Policy
from agent.core.state import UpdaterState
from agent.core.updater import update
from agent.runner.schedule import Schedule
from bundles.errors import WavegateError

_log = logging.getLogger(__name__)
JOURNAL_RETRY_MS = 2000

Quick = Callable[[str, fx.Effect], None]
"""(model, effect): done when it returns."""
Slow = Callable[[str, fx.Effect], ev.Event | None]
"""(model, effect) -> the answer, if the effect has one. Runs in the background; times are set when it is offered."""


@dataclass
class _Lane:
    """The slow effects of one model."""

    waiting: deque[fx.Effect] = field(default_factory=deque)
    is_busy: bool = False


class Updates:
    """The updater states of one device.

    Args:
        schedule: the line everything here runs on.
        policy: bounds set by the device's owner.
        save_journal: makes a model's journal durable; raises ``WavegateError`` or ``OSError`` where it cannot.
        quick: handler by effect type.
        slow: handler by effect type.
        failed: turns what a slow handler raised into its answer.
        changed: told after each event that changed a state.
        key: of this device's timers on a shared schedule.

    Attributes:
        policy: those bounds.
        states: of each model.
    """

    def __init__(
        self,
        schedule: Schedule,
        policy: Policy,
        save_journal: Callable[[str, bytes], None],
        quick: Mapping[type[fx.Effect], Quick],
        slow: Mapping[type[fx.Effect], Slow],
        failed: Callable[[fx.Effect, Exception], ev.Event | None],
        changed: Callable[[str], None],
        key: str = "",
    ) -> None:
        self._schedule, self.policy, self._save_journal = schedule, policy, save_journal
        self._quick, self._slow, self._failed, self._changed = quick, slow, failed, changed
        self._key = key
        self._lanes: dict[str, _Lane] = {}
        self._answered: set[str] = set()
        self.states: dict[str, UpdaterState] = {}

    def offer(self, model: str, event: ev.Event) -> None:
        """Let the updater of ``model`` decide on ``event``, and carry out what follows. On the schedule's line only.

        The event's time is set here, so that times never fall from one event to the next, whichever thread made them.
        """
        event = replace(event, at_ms=self._schedule.now_ms())
        before = self.states.get(model) or UpdaterState(model)
        after, effects = update(before, event, self.policy)
        try:
            for effect in effects:
                if isinstance(effect, fx.Journal):
                    self._save_journal(model, encode_state(effect.state))
        except (WavegateError, OSError) as error:
            _log.warning("the journal of %s cannot be written (%s); the same event is offered again", model, error)
            self._schedule.at(
                (self._key, "journal", model, type(event)),
                event.at_ms + JOURNAL_RETRY_MS,
                lambda: self.offer(model, event),
            )
            if isinstance(event, ev.Booted) and model not in self._answered:
                self._answered.add(model)
                for effect in effects:
                    if _is_known_way(before, effect):
                        self.carry_out(model, effect)
            return
        self.states[model] = after
        for effect in effects:
            self.carry_out(model, effect)
        if after != before:
            self._changed(model)

    def offer_all(self, event: ev.Event) -> None:
        """Offer an event to every model that has a state."""
        for model in list(self.states):
            self.offer(model, event)

    def carry_out(self, model: str, effect: fx.Effect) -> None:
        """Carry out one effect, in its turn."""
        if isinstance(effect, fx.Journal):
            return  # durable already, before anything else
        quick = self._quick.get(type(effect))
        if quick is not None:
            try:
                quick(model, effect)
            except (WavegateError, OSError) as error:
                # None of these answers the updater. What they leave undone is done at the next commit or start.
                _log.warning("%s of %s failed: %s", type(effect).__name__, model, error)
            return
        lane = self._lanes.setdefault(model, _Lane())
        lane.waiting.append(effect)
        self._next_slow(model, lane)

    def _next_slow(self, model: str, lane: _Lane) -> None:
        if lane.is_busy or not lane.waiting:
            return
        effect = lane.waiting.popleft()
        handler = self._slow[type(effect)]
        lane.is_busy = True

        def done(answer: ev.Event | BaseException | None) -> None:
            lane.is_busy = False
            if isinstance(answer, Exception):
                is_known = isinstance(answer, WavegateError | OSError)
                _log.log(
                    logging.INFO if is_known else logging.ERROR,
                    "%s of %s failed: %s",
                    type(effect).__name__,
                    model,
                    answer,
                    exc_info=None if is_known else answer,
                )
                answer = self._failed(effect, answer)
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                self.offer(model, answer)
            self._next_slow(model, lane)

        self._schedule.background(lambda: handler(model, effect), done)


def _is_known_way(state: UpdaterState, effect: fx.Effect) -> bool:
    """Whether ``effect`` makes a release answer that the journal on disk names already as one to return to.

    A start on a full disk must not wait for room in the journal before anything answers; nothing new is risked by it.
    """
    if isinstance(effect, fx.Revert):
        return effect.to is not None and effect.to in (state.revert_to, *state.ways_back)
    return isinstance(effect, fx.Serve)
