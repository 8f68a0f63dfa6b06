"""The targets, a module each; ``TARGET`` is what it offers."""
