"""Decisions on one device, as pure functions over plain values.

``update(state, event) -> (state, effects)`` is the updater, one state a model. Nothing here reads a clock, draws a
random number or touches a disk: time and draws arrive inside events, effects are carried out by the runner.
"""
