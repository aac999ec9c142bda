"""Addresses of MLflow's pages that show a sweep."""

from __future__ import annotations

from urllib.parse import quote

#: MLflow's pages take an experiment for one of chats and traces unless they are told.
_WORKFLOW = "workflowType=machine_learning"

#: Which of an experiment's shared views the links open: an experiment tag `mlflow.sharedViewState.<key>` has it.
VIEW_KEY = "lacuna"


def experiment_page(root: str, experiment: str) -> str:
    """The runs of a sweep's experiment, with the columns that matter. `root`: where MLflow is."""
    return f"{root}/#/experiments/{quote(experiment)}/runs?{_WORKFLOW}&viewStateShareKey={VIEW_KEY}"


def run_page(root: str, experiment: str, run: str) -> str:
    """One run of it."""
    return f"{root}/#/experiments/{quote(experiment)}/runs/{quote(run)}?{_WORKFLOW}"
