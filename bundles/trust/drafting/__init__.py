"""New versions of the offline roles, made from the current ones: pure, unsigned, a file a kind of change."""
