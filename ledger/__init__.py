"""The record of truth in Postgres: sweeps, segments, runs, attempts, metric points, fits; and its migrations.

Everything else may die at any moment and start again from what stands here.
"""
