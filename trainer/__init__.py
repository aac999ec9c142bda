"""Trains one segment of a program. Knows torch; knows nothing of Ray, SQL, MLflow or Kubernetes.

Importing this package imports no torch, so that plans are made and keys computed on machines without it.
"""
