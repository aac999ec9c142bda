"""The trainer on XLA, for real, on PJRT's CPU device: the CPU backend's losses, one compilation, its checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("PJRT_DEVICE", "CPU")
torch_xla = pytest.importorskip(
    "torch_xla", reason="torch-xla has a torch of its own: `make test-xla` runs this"
)

import torch_xla.debug.metrics as metrics  # noqa: E402

from trainer.data import DataSource, Prepared, prepare  # noqa: E402
from trainer.devices import DeviceError, device_for  # noqa: E402
from trainer.program import DataStream, LearningRate, Numerics, Optimizer, Program, Pruning  # noqa: E402
from trainer.run import Run  # noqa: E402
from trainer.segment import train_segment  # noqa: E402
from trainer.shapes import shape_for  # noqa: E402

# Compiling takes most of the time, and more of it on a busy machine.
pytestmark = pytest.mark.timeout(900)

STEPS, START, END, EVERY = 50, 10, 40, 5

#: The learning rate moves with every step from here on.
WARMUP = 5


@pytest.fixture(scope="session", autouse=True)
def device() -> None:
    # Autograd makes its queues once, at its first use: XLA's must be there by then.
    device_for("xla").prepare()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    root = tmp_path_factory.mktemp("data")
    return {
        "t5": prepare(DataSource(max_tokens=100_000), root),
        "vit": prepare(DataSource(source="digits", validation_share=0.2), root),
    }


def program(family: str, pattern: str, prepared: Prepared) -> Program:
    pruning = Pruning(sparsity=0.5, pattern=pattern, start=START, end=END, every=EVERY)
    if family == "t5":
        model = {"d_model": 8, "heads": 2, "d_ff": 16, "encoder_layers": 1, "decoder_layers": 1}
        dims = shape_for("t5", 12 * 64 * 2, {**model, "vocab_size": 384}).dims
        data = DataStream(digest=prepared.digest, sequence_length=24, evaluation_batches=2)
        rate, optimizer = LearningRate(base=0.05, warmup=WARMUP), Optimizer()
    else:
        model = {"d_model": 8, "heads": 2, "d_ff": 32, "layers": 1}
        image = {"image_size": 8, "patch_size": 4, "channels": 1, "classes": 10}
        dims = shape_for("vit", 12 * 64, {**model, **image}).dims
        data = DataStream(digest=prepared.digest, objective="image-classification", evaluation_batches=2)
        rate = LearningRate(schedule="cosine", base=0.005, warmup=WARMUP)
        optimizer = Optimizer(name="adamw", weight_decay=0.01, clip_norm=1.0)
    return Program(
        family=family,
        shape=dims,
        data=data,
        batch_size=4,
        steps=STEPS,
        pruning=pruning,
        learning_rate=rate,
        optimizer=optimizer,
    )


def compilations() -> int:
    """So many programs XLA has compiled in this process."""
    found = metrics.metric_data("CompileTime")
    return 0 if found is None else int(found[0])


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("family", ["t5", "vit"])
def test_losses_are_the_cpus_and_nothing_is_compiled_after_warm_up(
    family: str, pattern: str, prepared: dict[str, Prepared]
) -> None:
    chosen = program(family, pattern, prepared[family])
    here = Run(chosen, prepared[family], device_for("cpu"))
    there = Run(chosen, prepared[family], device_for("xla"))
    wanted = [float(here.advance()) for _ in range(STEPS)]
    losses, rates, compiled = [], set(), []
    for _ in range(STEPS):
        rates.add(there.learning_rate())
        losses.append(float(there.advance()))
        compiled.append(compilations())
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)
    assert not there.pruner.missed()
    assert there.pruner.updates == (END - START) // EVERY + 1
    assert len(rates) > STEPS // 2
    # Warm: one dense step, and two updates with the masked steps between them, have been.
    warm = START + EVERY + 1
    assert compiled[warm:] == [compiled[warm]] * (STEPS - warm), f"compiled anew after warm-up: {compiled}"
    assert compiled[0] > 0
    assert [name for name in metrics.counter_names() if name.startswith("aten::")] in (
        [],
        ["aten::_local_scalar_dense"],  # the loss, read by this test
    ), "an operation has no XLA form and went over the host"
    assert here.counts() == there.counts()


class _Losses:
    def __init__(self) -> None:
        self.found: dict[int, float] = {}

    def point(self, step: int, name: str, value: float) -> None:
        if name == "loss":
            self.found[step] = value


@pytest.mark.parametrize(("family", "first", "second"), [("t5", "cpu", "xla"), ("vit", "xla", "cpu")])
def test_a_checkpoint_of_one_backend_is_resumed_by_the_other(
    family: str, first: str, second: str, prepared: dict[str, Prepared], tmp_path: Path
) -> None:
    chosen, data, half = program(family, "2:4", prepared[family]), prepared[family].path, STEPS // 2
    alone, crossed = _Losses(), _Losses()
    whole = train_segment(
        chosen, 0, STEPS, data=data, parent=None, output=str(tmp_path / "alone"), sink=alone, log_every=5
    )
    begun = train_segment(
        *(chosen, 0, half),
        data=data,
        parent=None,
        output=str(tmp_path / "first"),
        sink=crossed,
        log_every=5,
        device=first,
    )
    ended = train_segment(
        *(chosen, half, STEPS),
        data=data,
        parent=begun.checkpoint,
        output=str(tmp_path / "second"),
        sink=crossed,
        log_every=5,
        device=second,
    )
    assert crossed.found.keys() == alone.found.keys()
    np.testing.assert_allclose(list(crossed.found.values()), list(alone.found.values()), rtol=0, atol=1e-4)
    assert ended.loss == pytest.approx(whole.loss, abs=1e-4)
    assert ended.per_layer == whole.per_layer


def test_two_chips_share_each_batch(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    """As a process of its own, since a process has as many chips as it had at its beginning."""
    chosen = program("vit", "2:4", prepared["vit"])
    spread = replace(chosen, numerics=Numerics(device_type="xla:2"))
    job = {
        "program": spread.to_dict(),
        "data": str(prepared["vit"].path),
        "output": str(tmp_path / "two"),
        "device": "xla:2",
        "log_every": 5,
    }
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "trainer", str(file)],
        env={**os.environ, "CPU_NUM_DEVICES": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *points, last = (json.loads(line) for line in done.stdout.splitlines())
    found = {point["step"]: point["value"] for point in points if point["name"] == "loss"}
    alone = _Losses()
    whole = train_segment(
        *(chosen, 0, STEPS),
        data=prepared["vit"].path,
        parent=None,
        output=str(tmp_path / "one"),
        sink=alone,
        log_every=5,
    )
    assert found.keys() == alone.found.keys()
    np.testing.assert_allclose(list(found.values()), list(alone.found.values()), rtol=0, atol=1e-4)
    assert last["result"]["loss"] == pytest.approx(whole.loss, abs=1e-4)
    assert last["result"]["nonzero_params"] == whole.nonzero_params
    with pytest.raises(DeviceError, match="'xla:3' is not there: use xla for one chip, xla:1 for all"):
        device_for("xla:3")
