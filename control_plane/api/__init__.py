"""The HTTP doors: thin routers over ``services`` and ``db.queries``, one mapping of errors, no state of their own."""
