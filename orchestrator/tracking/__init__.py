"""Tracking: metric points on their way from the trainer to the ledger, and from the ledger to MLflow."""
