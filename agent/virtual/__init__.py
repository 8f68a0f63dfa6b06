"""Many devices in one process: the same core and the same runner as a real device, on shared edges.

Every device here has its own identity, certificate, connection to the broker, trust store, disk folder, journal and
spool, and goes through every step that a real one does. Shared are what would only be repeated: a cache of verified
blobs, fetched trust metadata, and the running of models (``host``). They report themselves as ``tier: virtual``.
"""
