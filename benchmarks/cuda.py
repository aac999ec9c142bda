"""Everything that a GPU has to show, in one go and within ten minutes: its tests, then its figures.

    make bench-cuda                       the environment is made first
    PYTHONPATH=. python benchmarks/cuda.py       in an environment that is there, also without a network

Parts come in the order in which they matter, each with minutes of its own; what a part has printed when they are over
stands, and the next one begins. Ends with 1 where a part failed. `--dry` does as much of each as a CPU can.
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
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

#: So many times as long may a dry part take: figures are not what it is for.
_PATIENCE = 10


class Part(NamedTuple):
    """A command of Python, the minutes that it may take, and its arguments where there is no GPU."""

    title: str
    command: tuple[str, ...]
    minutes: float
    dry: tuple[str, ...]


#: Neither the settings of the whole suite nor what it has for other packages: the trainer's machine may lack those.
_TESTS = (
    *(
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-m",
        "gpu",
        "-c",
        os.devnull,
        "--rootdir=.",
        "--confcutdir=tests/trainer",
    ),
    *("-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnknownMarkWarning"),
    *("tests/trainer/test_devices.py", "tests/trainer/test_data_parallel.py"),
)

PARTS = (
    Part("tests that need a GPU", _TESTS, 2.5, _TESTS),
    Part(
        "train_speed.py: our loop, with and without masks and CUDA graphs, beside transformers.Trainer",
        ("benchmarks/train_speed.py", "--device", "cuda", "--turns", "5", "--steps", "20"),
        5.0,
        ("benchmarks/train_speed.py", "--width", "8", "--turns", "1", "--steps", "2"),
    ),
    Part(
        "pack_speed.py: packs of small models on one GPU",
        ("benchmarks/pack_speed.py", "--device", "cuda", "--weights", "1e6", "--rounds", "3"),
        2.0,
        ("benchmarks/pack_speed.py", "--weights", "4e3", "--rounds", "1", "--processes", "1"),
    ),
)


def carried_out(part: Part, *, dry: bool, home: Path) -> str:
    """How the part ended; it prints as it goes."""
    print(f"\n== {part.title}", flush=True)
    begin = time.monotonic()
    command = [sys.executable, *(part.dry if dry else part.command)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LACUNA_HOME": str(home),
        "HF_HUB_OFFLINE": "1",  # nothing is asked of a network that may not be there
        # What one row has compiled, the next ones find.
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
    }
    # A session of its own: where the part is cut off, so is whatever it started.
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(60 * part.minutes * (_PATIENCE if dry else 1))
    except subprocess.TimeoutExpired:
        return f"cut off after {part.minutes:g} minutes"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    took = f"{time.monotonic() - begin:.0f} s"
    return f"done in {took}" if code == 0 else f"FAILED with {code} after {took}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="without a GPU: the same parts, tiny, on the CPU")
    dry = parser.parse_args().dry
    import torch

    if not dry and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU here: nothing to measure (--dry tries the way)")
        return 1
    print(f"torch {torch.__version__}, {'CPU' if dry else torch.cuda.get_device_name()}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        ends = {part.title: carried_out(part, dry=dry, home=Path(home)) for part in PARTS}
    print("\n== in all")
    for title, end in ends.items():
        print(f"{end:28} {title}")
    return int(any(end.startswith("FAILED") for end in ends.values()))


if __name__ == "__main__":
    sys.exit(main())
