"""Support bundles of sick devices: ``collect`` reads (with ``disk``, ``machine``, ``kernel``); the rest is pure."""
