"""Everything that a GPU has to show: its tests, then its figures, the most wanted first.

    make bench-cuda                                  the environment is made first
    PYTHONPATH=. python benchmarks/cuda.py           in an environment that is there, also without a network
    PYTHONPATH=. python benchmarks/cuda.py --only wide packs     those parts alone, where a machine is lent for minutes

Parts have minutes of their own and all together `--minutes`; what a part has printed when they are over stands, and the
next one begins. What the environment lacks is said at the start, and the parts that need it are left out. Ends with 1
where a part failed. `--dry` does as much of each as a CPU can.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

#: So many times as long may a dry part take: figures are not what it is for.
_PATIENCE = 10

#: What the trainer cannot do without, and what is for single parts.
_NEEDED = ("torch", "numpy", "safetensors", "transformers", "fsspec")
_WANTED = ("triton", "accelerate", "pytest", "scikit-learn")


class Part(NamedTuple):
    """A command of Python, the minutes that it may take, and its arguments where there is no GPU."""

    title: str
    command: tuple[str, ...]
    minutes: float
    dry: tuple[str, ...]
    needs: str = "torch"
    """A module without which it is left out."""


#: Neither the settings of the whole suite nor what it has for other packages: the trainer's machine may lack those.
_TESTS = (
    *("-m", "pytest", "-v", "-rs", "--tb=short", "-m", "gpu", "-c", os.devnull),
    *("--rootdir=.", "--confcutdir=tests/trainer", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestUnknownMarkWarning"),
    # Most of their time is compiling, on one core each.
    *(("-n", "4") if find_spec("xdist") else ()),
    *("tests/trainer/test_cuda.py", "tests/trainer/test_devices.py", "tests/trainer/test_data_parallel.py"),
)

_SPEED = ("benchmarks/train_speed.py", "--device", "cuda", "--turns", "5", "--steps", "20", "--width")
_DRY_SPEED = ("benchmarks/train_speed.py", "--width", "8", "--turns", "1", "--steps", "2")
_PACKS = ("benchmarks/pack_speed.py", "--device", "cuda", "--rounds", "3", "--weights")
_DRY_PACKS = (
    *("benchmarks/pack_speed.py", "--weights", "4e3", "--rounds", "1"),
    *("--processes", "1", "--shared", "1"),
)

#: By what `--only` calls them.
PARTS = {
    "tests": Part("tests that need a GPU", _TESTS, 4.0, _TESTS, "pytest"),
    "speed": Part(
        "train_speed.py: our loop, with and without masks and CUDA graphs, beside transformers.Trainer",
        (*_SPEED, "256"),
        5.0,
        _DRY_SPEED,
    ),
    "packs": Part(
        "pack_speed.py: packs of small models on one GPU, beside processes that share it",
        (*_PACKS, "1e6", "5e6"),
        4.0,
        _DRY_PACKS,
    ),
    "wide": Part(
        "train_speed.py: the share of the GPU's peak at d = 768 and 1024",
        (*_SPEED, "768", "1024"),
        4.0,
        _DRY_SPEED,
    ),
    "more-packs": Part(
        "pack_speed.py: the smallest and the largest", (*_PACKS, "0.3e6", "20e6"), 4.0, _DRY_PACKS
    ),
}


def carried_out(part: Part, *, dry: bool, home: Path, left: float) -> str:
    """How the part ended; it prints as it goes. left: seconds for this one and all that follow."""
    print(f"\n== {part.title}", flush=True)
    if find_spec(part.needs) is None:
        return f"left out: {part.needs} is missing"
    longest = 60 * part.minutes * _PATIENCE if dry else min(60 * part.minutes, left)
    if longest < 20:
        return "left out: no time is left"
    begin = time.monotonic()
    command = [sys.executable, *(part.dry if dry else part.command)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "LACUNA_HOME": str(home),
        "HF_HUB_OFFLINE": "1",  # nothing is asked of a network that may not be there
        # What one row has compiled, the next ones find.
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRITON_CACHE_DIR": str(home / "triton"),
    }
    # A session of its own: where the part is cut off, so is whatever it started.
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(longest)
    except subprocess.TimeoutExpired:
        return f"cut off after {longest:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    took = f"{time.monotonic() - begin:.0f} s"
    return f"done in {took}" if code == 0 else f"FAILED with {code} after {took}"


def versions() -> tuple[str, list[str]]:
    """What is installed of all that is used, and what of it is needed and missing."""
    found, missing = [], []
    for name in (*_NEEDED, *_WANTED):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} MISSING")
            missing += [name] * (name in _NEEDED)
    return f"Python {sys.version.split()[0]}, {', '.join(found)}", missing


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="PART")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together")
    parser.add_argument("--dry", action="store_true", help="without a GPU: the same parts, tiny, on the CPU")
    asked = parser.parse_args()
    end = time.monotonic() + 60 * asked.minutes
    told, missing = versions()
    print(told)
    if missing:
        print(f"the trainer does not run without {', '.join(missing)}: nothing to measure")
        return 1
    import torch

    if not asked.dry and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU here: nothing to measure (--dry tries the way)")
        return 1
    print(f"{'CPU' if asked.dry else torch.cuda.get_device_name()}, {os.cpu_count()} cores", flush=True)
    ends = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        for name in asked.only:
            ends[name] = carried_out(PARTS[name], dry=asked.dry, home=Path(home), left=end - time.monotonic())
            print(f"-- {name}: {ends[name]}", flush=True)
    print("\n== in all")
    for name, how in ends.items():
        print(f"{name:12} {how:28} {PARTS[name].title}")
    return int(any(how.startswith("FAILED") for how in ends.values()))


if __name__ == "__main__":
    sys.exit(main())
