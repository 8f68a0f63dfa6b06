"""Baseline-aligned histograms: small summaries of what a model saw, exactly mergeable in any order.

``form`` is the promise (what travels and is stored), ``update`` fills a window on the device, ``merge`` adds
windows, ``distance`` compares counts, ``columns`` derives columns from tensors, ``build`` makes a baseline.
numpy is imported inside functions only; every function has a pure-Python path for machines without it.
"""
