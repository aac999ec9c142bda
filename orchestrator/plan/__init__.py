"""From a spec to a segment forest, and what it will cost before a FLOP is spent."""
