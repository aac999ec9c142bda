"""The sweep's YAML file: read, checked whole, and turned into cells."""

from orchestrator.spec.load import load_spec, load_spec_file
from orchestrator.spec.problems import Problem, SpecError
from orchestrator.spec.schema import Spec

__all__ = ["Problem", "Spec", "SpecError", "load_spec", "load_spec_file"]
