"""What travels between a device and the control plane: topics, messages and their codec."""
