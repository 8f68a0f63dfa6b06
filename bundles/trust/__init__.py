"""Who may say what runs: The Update Framework for bundles, a signed assignment for devices, floors beside both.

``roles`` names the roles and their rules, ``signers`` makes and loads keys, ``ceremony`` creates a repository's first
metadata, ``release`` adds a bundle to a team's role, ``repository`` publishes (the online side), ``director`` signs
and verifies desired documents, ``client`` is the device's side, with ``floors`` (its durable state), ``fetch`` (its
door to the network) and ``refusals`` (the ``TRUST_*`` codes). ``durable`` writes files that survive a power cut.
"""
