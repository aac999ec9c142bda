"""The images for real: build them, start them hardened on one network with a Postgres, train a sweep, read its law.

    python3 -m tests.images.check            needs root on Debian or Ubuntu, and about four minutes

Standard library only. It brings what it needs (docker.io and mmdebstrap from the distribution), runs a Docker daemon
of its own in a folder of its own, and leaves neither running nor anything behind. Where the machine cannot do that (not
root, a kernel or sandbox that allows no containers, no package index) it says why and ends with 0; whatever goes wrong
with the images ends with 1.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.images.build import CONTENTS, build, build_postgres, examine
from tests.images.daemon import Daemon
from tests.images.machine import CannotRun, prepare
from tests.images.origins import get_base, get_wheels, reach_index
from tests.images.system import use


def main() -> int:
    """Run everything; 0 where it passed or cannot run here."""
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
            base = get_base(daemon)
            wheels = get_wheels(daemon)
            reach_index(daemon, base)
        except CannotRun as reason:
            return skipped(reason)
        for target in CONTENTS:
            build(daemon, target, base, wheels)
            examine(daemon, target)
        build_postgres(daemon, base)
        use(daemon)
    except (AssertionError, subprocess.SubprocessError) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"images: passed in {time.monotonic() - began:.0f} s")
    return 0


def skipped(reason: CannotRun) -> int:
    """Say why nothing ran."""
    print(f"images: SKIPPED, because {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
