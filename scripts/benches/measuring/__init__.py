"""What the benches share: figures, fair timing, memory of process trees, an installed agent."""
