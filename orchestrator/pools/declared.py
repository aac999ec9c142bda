"""Which pools there are: those that the operator declares in a file, and otherwise this machine.

The file is named by LACUNA_POOLS, or is `pools.yaml` below LACUNA_HOME. It holds `pools:`, a list with the keys of the
chart's `pools` value, so that the chart can hand its own over.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from ledger.settings import Settings
from orchestrator.pools.accelerators import ACCELERATORS
from orchestrator.pools.pool import DEVICES, Pool, nearest
from orchestrator.pools.topology import PoolError
from orchestrator.spec.document import read
from orchestrator.spec.problems import SpecError

#: The pool that is always there: this machine, or whatever nodes the cluster has.
LOCAL = "local"


@dataclass(frozen=True)
class Pools:
    """All pools by name, in the order in which they were declared; `local` is always among them."""

    by_name: Mapping[str, Pool]
    source: str
    """Where they were declared; empty: nowhere."""

    def get(self, name: str) -> Pool:
        """The pool of that name. Raises PoolError, naming those there are."""
        if name in self.by_name:
            return self.by_name[name]
        where = f"{self.source} declares" if self.source else "without LACUNA_POOLS there are"
        raise PoolError(
            f"{nearest(name, self.by_name, 'there is no pool')} ({where} {', '.join(self.by_name)})"
        )

    def check(self, name: str, device: str, devices: int = 1) -> Pool:
        """The pool of that name, if it has such devices, and so many for one run. Raises PoolError."""
        pool = self.get(name)
        if device not in DEVICES[pool.kind]:
            fitting = [other.name for other in self.by_name.values() if device in DEVICES[other.kind]] or [
                "none"
            ]
            raise PoolError(
                f"pool {name!r} has {pool.accelerator} and no device {device!r}: set execution.device to "
                f"{' or '.join(DEVICES[pool.kind])}, or take another pool ({', '.join(fitting)})"
            )
        if (lacking := pool.lacks(device, devices)) is not None:
            raise PoolError(f"pool {name!r} {lacking}")
        return pool

    def __iter__(self) -> Iterator[Pool]:
        return iter(self.by_name.values())


def declared(settings: Settings) -> Pools:
    """The operator's pools and `local`. Where none are declared, two assumed ones beside it say what a GPU or a TPU
    would cost. Raises PoolError with every mistake of the file."""
    path = _file(settings)
    if path is None:
        found = [this_machine(), *_ASSUMED]
        return Pools({pool.name: pool for pool in found}, "")
    pools = read_pools(path)
    return Pools({LOCAL: this_machine(), **{pool.name: pool for pool in pools}}, str(path))


def read_pools(path: Path) -> list[Pool]:
    """The pools of a file. Raises PoolError with every mistake, each with its line."""
    try:
        document = read(path.read_bytes(), str(path))
    except OSError as error:
        raise PoolError(f"{path} cannot be read: {error.strerror or error}") from None
    except SpecError as error:
        raise PoolError(str(error).replace("a spec begins with `name:`", "it begins with `pools:`")) from None
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("pools"), list):
        raise PoolError(f"{path}: must be a mapping with `pools:`, a list")
    unknown = [key for key in value if key != "pools"]
    problems = [f"line {document.line(key)}: unknown key {key}: only pools stands here" for key in unknown]
    pools: dict[str, Pool] = {}
    for index, item in enumerate(value["pools"]):
        place = f"pools[{index}]"
        try:
            pool = Pool.model_validate(item)
        except (ValidationError, PoolError) as error:
            problems += _told(error, place, document.line(place))
            continue
        if pool.name in pools or pool.name == LOCAL:
            why = "stands twice" if pool.name in pools else "is this machine's and not to be declared"
            problems.append(f"line {document.line(f'{place}.name')}: {place}.name: {pool.name} {why}")
        pools[pool.name] = pool
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise PoolError("\n".join([f"{path}: {count}", *(f"  {line}" for line in problems)]))
    return list(pools.values())


def _told(error: ValidationError | PoolError, place: str, line: int | None) -> list[str]:
    if isinstance(error, PoolError):
        return [f"line {line}: {place}: {error}"]
    told = []
    for item in error.errors(include_url=False):
        path = ".".join([place, *(str(part) for part in item["loc"])])
        message = str(item["ctx"]["error"]) if item["type"] == "value_error" else str(item["msg"])
        if item["type"] == "extra_forbidden":
            known = [field.alias or name for name, field in Pool.model_fields.items() if not field.exclude]
            message = nearest(str(item["loc"][-1]), known, "unknown key")
        told.append(f"line {line}: {path}: {message.replace('Input should', 'should')}")
    return told


def _file(settings: Settings) -> Path | None:
    if settings.pools is not None:
        return settings.pools
    beside = settings.home / "pools.yaml"
    return beside if beside.exists() else None


@lru_cache(maxsize=1)
def this_machine() -> Pool:
    """`local`: the cores of this machine, and its GPUs where it has any that we know."""
    cores = float(os.cpu_count() or 1)
    gpus = _gpus()
    if not gpus:
        return Pool(name=LOCAL, accelerator="cpu", cpus=cores, everywhere=True)
    per_host = max(n for n in ACCELERATORS[gpus[0]].chips_per_host if n <= max(len(gpus), 1))
    return Pool(name=LOCAL, accelerator=gpus[0], chips_per_host=per_host, cpus=cores, everywhere=True)


def _gpus() -> list[str]:
    """Accelerators of this machine's GPUs, by name; those that are no data-centre GPU count as an L4."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        listed = subprocess.run(
            [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [_accelerator(*line.rsplit(",", 1)) for line in listed.splitlines() if "," in line]


def _accelerator(name: str, mebibytes: str) -> str:
    for word, accelerator in _MODELS.items():
        if word in name:
            large = accelerator == "nvidia-a100-80gb" and float(mebibytes) < 60_000
            return "nvidia-a100-40gb" if large else accelerator
    return "nvidia-l4"


_MODELS = {
    "B200": "nvidia-b200",
    "H200": "nvidia-h200-141gb",
    "H100": "nvidia-h100-80gb",
    "A100": "nvidia-a100-80gb",
    "L4": "nvidia-l4",
}

#: What a plan shows beside this machine where no pools are declared.
_ASSUMED = (
    Pool(name="gpu", accelerator="nvidia-h100-80gb", chips_per_host=8, assumed=True),
    Pool(name="tpu", accelerator="tpu-v6e-slice", topology="1x1", max_nodes=8, assumed=True),
)
