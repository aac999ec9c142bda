"""The images for real: build them, start them hardened on one network with a Postgres, train a sweep, read its law.

    python3 -m tests.images.check                            needs root on Debian or Ubuntu, and four to six minutes
    python3 -m tests.images.check trainer-gpu trainer-tpu    builds and examines only these; 40 GB of disk for those two

Standard library only. It brings what it needs (docker.io and mmdebstrap from the distribution), runs a Docker daemon
of its own in a folder of its own, and leaves neither running nor anything behind. Where the machine cannot do that (not
root, a kernel or sandbox that allows no containers, no package index) it says why and ends with 0; whatever goes wrong
with the images ends with 1.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.images.build import CONTENTS, SYSTEM, build, build_postgres, examine
from tests.images.daemon import Daemon
from tests.images.machine import CannotRun, prepare
from tests.images.origins import get_base, get_wheels, reach_index
from tests.images.system import use


def main(named: list[str]) -> int:
    """Run everything, or build the images that are named; 0 where it passed or cannot run here."""
    if unknown := [target for target in named if target not in CONTENTS]:
        print(f"{', '.join(unknown)}: no such image; there are {', '.join(CONTENTS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    # Told to end, it still ends its daemon.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        prepare()
    except CannotRun as reason:
        return skipped(reason)
    folder = Path(tempfile.mkdtemp(prefix="lacuna-images-"))
    daemon = Daemon(folder)
    try:
        try:
            daemon.start()
            with ThreadPoolExecutor() as pool:
                fetched = pool.submit(get_wheels, daemon)
                base = get_base(daemon)
                wheels = fetched.result()
            reach_index(daemon, base)
        except CannotRun as reason:
            return skipped(reason)
        # Side by side: a build waits for the network half of its time, and layers below several images are built once.
        with ThreadPoolExecutor() as pool:
            made = [pool.submit(make, daemon, target, base, wheels) for target in named or SYSTEM]
            if not named:
                made.append(pool.submit(build_postgres, daemon, base))
            try:
                for image in made:
                    image.result()
            except BaseException:
                daemon.stop()  # and with it the builds that go on
                raise
        said("images built and examined", began)
        if not named:
            use(daemon)
    except (AssertionError, subprocess.SubprocessError) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        daemon.stop()
        remove(folder)
    said("images: passed", began)
    return 0


def make(daemon: Daemon, target: str, base: str, wheels: str | None) -> None:
    """Build and examine one image."""
    build(daemon, target, base, wheels)
    examine(daemon, target)


def remove(folder: Path) -> None:
    """Delete half a million files, for minutes in Python; a build that was ended may still write some."""
    for _ in range(10):
        if subprocess.run(["rm", "-rf", str(folder)], capture_output=True).returncode == 0:
            return
        time.sleep(1)
    print(f"images: {folder} could not be deleted", file=sys.stderr)


def said(what: str, began: float) -> None:
    """Print what is done, and the seconds from the beginning to it."""
    print(f"{what} after {time.monotonic() - began:.0f} s", flush=True)


def skipped(reason: CannotRun) -> int:
    """Say why nothing ran."""
    print(f"images: SKIPPED, because {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
