"""A fleet in virtual time over the real reconciler, gates and device rules: what the rollout core is measured with.

Tier: core only. No device, broker or database takes part; fates are drawn from a seed and printed results repeat.
"""
