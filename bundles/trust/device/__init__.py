"""The device's side of trust: what it fetches, checks in which order, remembers for ever, and refuses by which code."""
