"""The benches of ``scripts/bench``: one module each, with ``run(plan) -> Iterable[Figure]``."""
