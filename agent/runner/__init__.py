"""The composition root of the agent: gathers events, calls the updater's core, carries out its effects.

``schedule`` turns threads and timers into one line of calls · ``updates`` runs the updater of each model ·
``steps`` carries out the slow effects · ``assurance`` asks trust · ``trustwatch`` asks it about what is installed ·
``models`` runs models · ``link`` talks to the control plane · ``voice`` says what there is to say in the words of
``reporting`` · ``device`` ties these together · ``wiring`` builds the real parts. ``agent.virtual`` builds others
around the same ``device``.
"""
