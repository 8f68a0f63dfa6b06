"""What the control plane does by itself, each in a thread of its own: telling devices, ticking rollouts, upkeep."""
