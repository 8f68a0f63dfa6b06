"""The agent as a service of systemd: the unit (``unit``), putting it in place (``install``), what it is told
(``notify``, ``watchdog``)."""
