"""The inference room: runtimes behind one protocol, isolated workers, trials, the engine and its local door."""
