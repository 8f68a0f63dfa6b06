"""The main job on one machine, told as a story: a real control plane, a real broker, real agents.

Servers and agents are started as processes only. ``story`` is what happens, ``claims`` what must be true of it, read
back from the API and the devices; ``releases`` makes the bundles, ``fleet`` the devices, ``processes`` runs programs.
"""
