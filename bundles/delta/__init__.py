"""Deltas between two model files: ``make`` on the server, ``apply`` on the device, ``form`` what both agree upon."""
