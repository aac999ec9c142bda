"""How fast batches are made, beside how fast models eat them: processor time of both, in one process, in turn.

    python benchmarks/loader.py --steps 60

For each family, the quickstart's base shape (the largest that the tests train), and its smallest. A worker makes its
own batches on its own core, so the ratio of one core is that of any number of them. Images also with augmentation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from trainer.data import DataSource, Prepared, prepare
from trainer.data.batches import Batches
from trainer.devices import device_for
from trainer.families import rules
from trainer.program import DataStream, LearningRate, Program
from trainer.run import Run
from trainer.shapes import shape_for

WIDE: dict[str, Any] = {"d_model": 64, "heads": 2, "shape_rule": "linear"}

#: Family → options of the base shape, batch size, what else the stream says.
CASES: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "t5": ({**WIDE, "d_ff": 170, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 384}, 16, {}),
    "decoder": ({**WIDE, "d_ff": 170, "layers": 2, "vocab_size": 384}, 16, {}),
    "encoder": ({**WIDE, "d_ff": 256, "layers": 2, "vocab_size": 384, "positions": 96}, 16, {}),
    "vit": (
        {**WIDE, "d_ff": 256, "layers": 2, "image_size": 8, "patch_size": 2, "channels": 1, "classes": 10},
        32,
        {},
    ),
    "vit, augmented": (
        {**WIDE, "d_ff": 256, "layers": 2, "image_size": 8, "patch_size": 2, "channels": 1, "classes": 10},
        32,
        {"random_flip": True, "crop_padding": 1},
    ),
}


def program_of(case: str, data: Prepared, dense_params: float) -> Program:
    """The quickstart's batches for one of CASES."""
    family = case.partition(",")[0]
    model, batch_size, stream = CASES[case]
    return Program(
        family=family,
        shape=shape_for(family, dense_params, model).dims,
        data=DataStream(
            digest=data.digest,
            objective=rules(family).OBJECTIVES[0],
            sequence_length=96,
            evaluation_batches=2,
            **stream,
        ),
        batch_size=batch_size,
        steps=100_000,
        learning_rate=LearningRate(schedule="constant", base=1e-4, warmup=1),
    )


def seconds_a_step(program: Program, data: Prepared, steps: int) -> tuple[float, float]:
    """Processor seconds of making a batch, and of a whole step."""
    run = Run(program, data, device_for("cpu"))
    batches = Batches(program.data, data, batch_size=program.batch_size, seed=0)
    made = trained = 0.0
    for step in range(steps + 10):
        begin = time.process_time()
        batches.train(step)
        between = time.process_time()
        run.advance()
        if step >= 10:
            made += between - begin
            trained += time.process_time() - between
    return made / steps, trained / steps


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--steps", type=int, default=60)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        texts = prepare(DataSource(max_tokens=4_000_000), home / "data")
        images = prepare(DataSource(source="digits", validation_share=0.25), home / "data")
        print(f"{'family':16} {'weights':>9} {'batch ms':>9} {'step ms':>9} {'ratio':>7}")
        for case in CASES:
            data = images if case.startswith("vit") else texts
            for dense_params in (8e3, 256e3):
                program = program_of(case, data, dense_params)
                made, trained = seconds_a_step(program, data, chosen.steps)
                print(
                    f"{case:16} {dense_params:9,.0f} {1e3 * made:9.3f} {1e3 * trained:9.2f} {trained / made:6.0f}×",
                    flush=True,
                )


if __name__ == "__main__":
    main()
