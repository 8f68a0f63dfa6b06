"""Who may say what runs: The Update Framework for bundles, a signed assignment for devices, floors beside both.

``signing`` is people and their keys, ``drafting`` what they change, ``publishing`` the repository's online side and
``device`` what a device makes of it all. Here lies what these share: ``roles`` and ``profiles`` (names, lifetimes, how
many hold the keys), ``revocation`` (what is forbidden), ``director`` (the signed assignment), ``fetch`` (the door to
the network), ``refusals`` (the ``TRUST_*`` codes) and ``durable`` (files that survive a power cut).
"""
