"""Load, decide, save: each function is one step of a transaction that its caller opened with ``db.write()``.

Nothing here reads a clock (``now_ms`` is an argument) or knows HTTP. What is in the database decides; a service that is
called twice with the same facts changes nothing the second time.
"""
