"""The kernel's count of OOM kills: what tells a process that was killed for its memory from one killed otherwise.

Both die by SIGKILL and can say nothing. But Linux counts, for each memory cgroup, the processes that its OOM killer
ended (v2: `oom_kill` in memory.events; v1: in memory.oom_control), and who lives on can read that. A container has a
cgroup of its own, a user's session has one; macOS has none, and there every death counts as preemption.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class OomKills:
    """So many processes of the cgroup whose events stand in `path` were killed for their memory."""

    path: Path
    count: int

    @classmethod
    def here(
        cls, own: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
    ) -> OomKills | None:
        """The count of this process's cgroup, now; None where the kernel has none."""
        for path in _candidates(own, mounted):
            if (count := _read(path)) is not None:
                return cls(path, count)
        return None

    def now(self) -> OomKills:
        """The same cgroup's count, now; unchanged where the cgroup is gone."""
        count = _read(self.path)
        return self if count is None else OomKills(self.path, count)


def _candidates(own: Path, mounted: Path) -> list[Path]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        # Without a namespace of its own a container sees its host's path, and mounted only what lies below it.
        if "memory" in controllers.split(","):
            found += [mounted / "memory" / part / "memory.oom_control" for part in (inside, "")]
        elif hierarchy == "0" and not controllers:
            found += [mounted / part / "memory.events" for part in (inside, "")]
    return found


def _read(path: Path) -> int | None:
    try:
        found = _COUNT.search(path.read_text())
    except OSError:
        return None
    return None if found is None else int(found[1])
