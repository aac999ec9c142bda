"""Which weights are kept, and when: masks (pure), patterns, distributions, and methods over steps.

Importing this package, `rules` and `methods` needs no torch: plans are checked with them.
"""
