"""A family is one file: put among the others, specs name it, plans count it, the trainer prunes and trains it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import trainer
from trainer.data import Prepared

#: Plans a sweep of the new family and trains its last run, in a process that sees a copy of the package with the file.
SCRIPT = """
import json, sys
from pathlib import Path
from orchestrator.plan.plan import build
from orchestrator.spec import load_spec
from trainer.metrics import NoSink
from trainer.segment import train_segment

text, digest, data, output = sys.argv[1:]
spec = load_spec(text)
program = build(spec, data_digest=digest).runs[-1].program
result = train_segment(program, 0, program.steps, data=Path(data), parent=None, output=output, sink=NoSink())
print(json.dumps({"loss": result.loss, "reached": result.sparsity_reached, "shape": program.shape}))
"""

SPEC = """
name: averages
model: {family: averages, d_model: 16, d_ff: 88, layers: 2, shape_rule: linear}
data: {source: python-source, sequence_length: 24, evaluation_batches: 2}
grid: {nonzero_params: [3e3], sparsity: [0.5], steps: [40]}
pruning: {every: 5}
training: {batch_size: 4, learning_rate: {base: 0.3, warmup: 10}}
"""


def test_a_family_is_added_by_one_file(prepared: Prepared, tmp_path: Path) -> None:
    package = Path(trainer.__file__).parent
    shutil.copytree(package, tmp_path / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("a_family.py"), tmp_path / "trainer" / "families" / "averages.py")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, SPEC, prepared.digest, str(prepared.path), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{package.parent}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["shape"]["layers"] == 2
    # Half of what remains once each layer has rounded.
    assert abs(result["reached"] - 0.5) < 0.01
    assert result["loss"] < 5.9, "guessing is log 384 = 5.95"
