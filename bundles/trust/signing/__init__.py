"""People and their keys: the ceremony, signers, events that travel between them, and what a signature changes."""
