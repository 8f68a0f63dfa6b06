"""What the fleet should do next, decided over plain values.

Every module here is pure: no clock, no randomness, no files, no sockets, no logging. Time arrives inside the event,
evidence inside its struct, and what should happen leaves as an effect. Loading, storing and acting belong to
``control_plane.services``.
"""
