"""What ``scripts/fuzz`` is made of: targets, how they are run, and how much of the product they reach."""
