"""What is promised between the control plane and the devices: formats, trust and wire messages.

Everything that crosses from one side to the other is defined here, once. This package imports neither
``agent`` nor ``control_plane``, does no I/O beyond the files it is handed, and stays light enough for a device.
"""

__version__ = "0.1.0"
