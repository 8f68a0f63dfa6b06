"""What happens to the fleet: registry, rollouts, ingest, drift, the operators' API and pages.

``app`` is the composition root of the server, ``cli`` of the commands. Decisions live in ``core`` as pure functions;
``services`` load, decide and save in one transaction; everything else is an edge.
"""
