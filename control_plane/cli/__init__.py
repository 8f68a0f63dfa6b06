"""The operators' command line. ``main`` is the entry point; every group is loaded only when it is asked for."""
