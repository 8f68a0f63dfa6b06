"""What the tests of the transports are made of: a server, what lies between it and a device, and the device's side."""
