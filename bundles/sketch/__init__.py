"""Baseline-aligned histograms: small summaries of what a model saw, exactly mergeable in any order.

``form`` is the promise (what travels and is stored), ``baseline`` reads and writes the reference, ``columns`` derives
columns from tensors, ``binning`` and ``update`` fill a window on the device, ``latency`` its latencies, ``merge`` adds
windows, ``distance`` compares counts, ``build`` makes a baseline. numpy is imported inside functions only; all a
device needs but ``columns`` has a pure-Python path for machines without it.
"""
