"""`lacuna init`: a commented spec after a few questions."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.command.facts import InputError
from trainer.families import FAMILIES

_FAMILIES = f"{', '.join(FAMILIES[:-1])} or {FAMILIES[-1]}"

#: What is asked, in this order: option → (question, default, what a good answer is).
QUESTIONS = {
    "name": ("Name of the sweep", "my-sweep"),
    "family": (f"Kind of model: {_FAMILIES}", "decoder"),
    "source": ("Data: python-source, digits, a file or folder, or a datasets id", "python-source"),
    "params": (
        "Non-zero parameters of the models, separated by commas (three sizes or more)",
        "4k, 8k, 32k",
    ),
    "sparsity": ("Sparsities, separated by commas (0 is dense)", "0, 0.5, 0.75, 0.875"),
    "steps": ("Training lengths in steps, separated by commas (three or more)", "200, 600, 1800"),
}
#: Below this many parameters a family's usual widths round badly: models are then narrow and shallow.
SMALL = 1e6
TINY = {
    "t5": "d_model: 64\n  heads: 2\n  d_ff: 170\n  encoder_layers: 2\n  decoder_layers: 2\n",
    "decoder": "d_model: 64\n  heads: 2\n  d_ff: 170\n  layers: 2\n",
    "encoder": "d_model: 64\n  heads: 2\n  d_ff: 256\n  layers: 2\n",
    "vit": "d_model: 48\n  heads: 2\n  d_ff: 128\n  layers: 2\n",
}
#: What a model must know of the images that it reads, and how few of them are there.
DIGITS = "image_size: 8\n  patch_size: 2\n  channels: 1\n"
FEW_IMAGES = "  validation_share: 0.25\n  evaluation_batches: 8\n  evaluation_batch_size: 56\n"

UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}

TEMPLATE = """\
# How sparse should the {family} be? {runs} runs: {shape}.
#   lacuna validate {path}     everything that is wrong with it, at once
#   lacuna plan {path}         what it runs, shares and costs
#   lacuna run {path}          run it here, to the end
# Every key with its meaning and default: docs/spec.md, or `lacuna schema` for your editor.
name: {name}

model:
  family: {family}
{widths}
data:
  source: {source}
{data}
grid:
  # N counts the parameters that are left after pruning, so a model of N at 75 % is trained four times as large.
  nonzero_params: {params}
  # 0 is the dense baseline; three sparsities or more, or the law's shape in S is not identified.
  sparsity: {sparsity}
  # Runs that begin alike share their beginning: longer lengths cost less than they look.
  steps: {steps}
  seed: [0]          # more seeds show how far runs scatter

pruning:
  method: gmp        # gradual magnitude pruning, the paper's; a list of methods in `grid` compares them
  every: {every}           # steps between two mask updates

training:
  batch_size: {batch_size}
  learning_rate: {{schedule: rsqrt, base: {base}, warmup: {warmup}}}   # rsqrt: runs of all lengths share trunks

execution:
  checkpoint_every: {checkpoint_every}
  log_every: {log_every}
  attempts: 3        # tries of a segment that fails; being preempted costs none

law:
  form: sparsity     # the paper's
  params: {counted}
"""


@click.command(name="init")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="sweep.yaml")
@click.option("--name", help="Name of the sweep.")
@click.option("--family", help=f"{_FAMILIES}.")
@click.option("--source", help="python-source, digits, a file or folder, or a `datasets` id.")
@click.option("--params", help="Non-zero parameters, such as 50k,100k,400k.")
@click.option("--sparsity", help="Sparsities, such as 0,0.5,0.75.")
@click.option("--steps", help="Training lengths, such as 500,1000,2000.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: take the default of what is not given.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(path: Path, yes: bool, force: bool, **given: str | None) -> None:
    """Write a commented spec to PATH (sweep.yaml by default) after a few questions. What it writes is valid.

    \b
      lacuna init
      lacuna init first.yaml --yes --family t5 --params 50k,100k,200k
    """
    if path.exists() and not force:
        raise InputError(f"{path} exists: give another path, or --force to replace it")
    ask = not yes and sys.stdin.isatty()
    answers: dict[str, Any] = {}
    for option, (question, usual) in QUESTIONS.items():
        default = _default(option, usual, answers.get("family"))
        answers[option] = given[option] or (click.prompt(question, default=default) if ask else default)
    text = spec_text(answers, path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)
    click.echo(f"wrote {path}: see what it costs with `lacuna plan {path}`, then `lacuna run {path}`")


def _default(option: str, default: str, family: str | None) -> str:
    """What is right for the family, where that differs."""
    images = {"source": "digits", "steps": "80, 240, 720"}
    return images.get(option, default) if family == "vit" else default


def spec_text(answers: dict[str, Any], path: Path) -> str:
    """The YAML of these answers. Raises InputError, SpecError: it is checked before it is written."""
    from orchestrator.spec import load_spec
    from orchestrator.spec.cells import cells

    sizes = _numbers("params", answers["params"])
    shares = _numbers("sparsity", answers["sparsity"])
    lengths = [int(length) for length in _numbers("steps", answers["steps"])]
    images = answers["family"] == "vit"
    small = min(sizes) < SMALL
    shortest = max(min(lengths), 1)
    tokens = (
        "  tokenizer: byte    # or a transformers tokenizer, such as google/t5-v1_1-base\n"
        f"  sequence_length: {96 if small else 512}\n"
        + ("  max_tokens: 8e6    # plenty for models this small\n" if small else "")
    )
    values = {
        **answers,
        "path": path,
        "source": _scalar(answers["source"]),
        "data": (FEW_IMAGES if answers["source"] == "digits" else "") if images else tokens,
        "params": f"[{', '.join(f'{size:g}'.replace('e+0', 'e').replace('e+', 'e') for size in sizes)}]",
        "sparsity": f"[{', '.join(f'{share:g}' for share in shares)}]",
        "steps": f"[{', '.join(map(str, lengths))}]",
        "runs": len(sizes) * len(shares) * len(lengths),
        "shape": f"{len(sizes)} sizes × {len(shares)} sparsities × {len(lengths)} lengths",
        "widths": _widths(answers["family"], answers["source"], small),
        "counted": "linear     # N as trained; `nominal` is the paper's own formula"
        if small
        else "nominal    # the paper's own formula for N",
        "every": _every(lengths),
        "batch_size": (32 if images else 16) if small else 128,
        "base": 0.25 if small else 1.0,
        "warmup": max(1, min(10_000, shortest // 5)),
        "checkpoint_every": max(1, min(10_000, shortest)),
        "log_every": max(1, min(100, shortest // 10)),
    }
    text = TEMPLATE.format(**values)
    checked = load_spec(text, str(path))
    cells(checked)
    return text


def _widths(family: str, source: str, small: bool) -> str:
    """The lines of `model` beside the family."""
    if small and family in TINY:
        lines = (
            "  # Widths of the scale-1 model, which a size scales; narrow and shallow, since these models are small.\n"
            f"  {TINY[family]}"
            "  # Choose d_ff so that the linear weights hit the target: widths this small round badly.\n"
            "  shape_rule: linear\n"
        )
    else:
        lines = "  # The paper's rule for widths; d_model, heads, layers, … may stand here.\n  shape_rule: paper\n"
    if family == "vit":
        known = source == "digits"
        lines += f"  {DIGITS}" if known else "  # What the images are: image_size, patch_size, channels.\n"
    return lines


def _every(lengths: list[int]) -> int:
    """The largest update period, about 40 updates in the shortest run and at most 100 steps, that ends every pruning
    (at three quarters of the run) just on its last step."""
    ends = math.gcd(*(round(0.75 * length) for length in lengths)) or 1
    most = max(1, min(100, min(lengths) // 40))
    return max(period for period in range(1, most + 1) if ends % period == 0)


def _numbers(option: str, text: str) -> list[float]:
    """`50k, 1.5M` → [5e4, 1.5e6]. Raises InputError."""
    found = []
    for word in filter(None, re.split(r"[,\s]+", text.strip().strip("[]"))):
        unit = UNITS.get(word[-1].lower())
        try:
            found.append(float(word[:-1]) * unit if unit else float(word))
        except ValueError:
            raise InputError(
                f"--{option}: '{word}' is no number; write them like {QUESTIONS[option][1]}"
            ) from None
    if not found:
        raise InputError(f"--{option} is empty; write numbers like {QUESTIONS[option][1]}")
    return found


def _scalar(text: str) -> str:
    """Text as YAML reads it back."""
    import json

    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", text) else json.dumps(text)
