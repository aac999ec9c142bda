"""What is known of each kind of node: chips, memory, peak arithmetic, prices, and how Kubernetes and Ray name it.

Arithmetic and memory: the makers' data sheets (NVIDIA: dense rates, without structured sparsity; Google: the TPU
generations' system-architecture pages). Prices are bands of public offers in US dollars per chip and hour, with source
and date; they age, and a pool may state its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from math import prod
from typing import Literal

Kind = Literal["cpu", "gpu", "tpu"]

GIB = 2**30
TERA = 1e12

_RENTED = "on-demand offers of some 20 providers, October 2026"
_LISTED = "Google Cloud's list price, 3-year commitment to on demand, 2025"


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per chip and hour, from the cheapest usual offer to the dearest, and where that was read."""

    low: float
    high: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One kind of chip. A CPU core counts as a chip.

    memory: bytes per chip. peak: FLOP/s per chip by precision (`bf16`, `float32`), dense. utilisation: share of the
    peak that training reaches, where nothing was measured (T5-base on one A100, bf16: 0.56 s a step of 128 × 512
    positions, 6·170 M FLOPs each, is 0.38). step_overhead: seconds of a step that no arithmetic explains.
    """

    name: str
    kind: Kind
    memory: float
    peak: Mapping[str, float]
    utilisation: float = 0.38
    step_overhead: float = 0.02
    link: float = 50e9
    """Bytes a second that a chip exchanges with the others of its run, one way: a tenth to a half of what data sheets
    of NVLink and of TPUs' interconnect say, as collectives of a few megabytes reach it."""
    chips_per_host: tuple[int, ...] = (1, 2, 4, 8)
    """How many chips a host may have, the usual number first."""
    topologies: tuple[str, ...] = ()
    """TPU slices that can be had; empty: there is no such thing as a topology."""
    price: Price | None = None
    gke_label: str = ""
    """Value of cloud.google.com/gke-accelerator or gke-tpu-accelerator; empty where GKE has none."""
    ray_generation: str = ""
    """Ray's name of a TPU generation: v4, v5litepod, …"""
    cores_per_chip: int = 1
    """TensorCores, by which the pod types of some TPU generations count."""
    aliases: tuple[str, ...] = field(default=())


def _solids(largest: tuple[int, int, int]) -> tuple[str, ...]:
    """3-D slices: the small ones, and all with ascending sides that are multiples of four, up to the largest."""
    small = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
    sides = combinations_with_replacement(range(4, largest[2] + 1, 4), 3)
    large = [side for side in sides if all(a <= b for a, b in zip(side, largest, strict=True))]
    return (*small, *("x".join(map(str, side)) for side in sorted(large, key=lambda s: (prod(s), s))))


_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

_ALL = (
    Accelerator(
        name="cpu",
        kind="cpu",
        memory=4 * GIB,
        # One core with 256-bit vectors at 3 GHz; bf16 is emulated at the same rate.
        peak={"float32": 96e9, "bf16": 96e9},
        utilisation=0.25,
        link=0.5e9,  # gloo between processes of one machine
        chips_per_host=(),
        price=Price(low=0.03, high=0.06, source="general-purpose cloud machines per core, 2026"),
    ),
    Accelerator(
        name="nvidia-l4",
        kind="gpu",
        memory=24e9,
        peak={"bf16": 121 * TERA, "float32": 30.3 * TERA},
        link=10e9,  # no NVLink
        chips_per_host=(1, 2, 4, 8),
        price=Price(low=0.28, high=0.85, source="Google Cloud, spot to a whole g2-standard-8, 2025"),
        gke_label="nvidia-l4",
    ),
    Accelerator(
        name="nvidia-a100-40gb",
        kind="gpu",
        memory=40e9,
        peak={"bf16": 312 * TERA, "float32": 19.5 * TERA},
        chips_per_host=(8, 1, 2, 4, 16),
        price=Price(low=0.80, high=1.99, source=_RENTED),
        gke_label="nvidia-tesla-a100",
        aliases=("nvidia-tesla-a100",),
    ),
    Accelerator(
        name="nvidia-a100-80gb",
        kind="gpu",
        memory=80e9,
        peak={"bf16": 312 * TERA, "float32": 19.5 * TERA},
        chips_per_host=(8, 1, 2, 4),
        price=Price(low=1.39, high=2.79, source=_RENTED),
        gke_label="nvidia-a100-80gb",
    ),
    Accelerator(
        name="nvidia-h100-80gb",
        kind="gpu",
        memory=80e9,
        peak={"bf16": 989 * TERA, "float32": 67 * TERA},
        chips_per_host=(8, 1, 2, 4),
        price=Price(low=2.58, high=6.16, source=_RENTED),
        gke_label="nvidia-h100-80gb",
    ),
    Accelerator(
        name="nvidia-h100-mega-80gb",
        kind="gpu",
        memory=80e9,
        peak={"bf16": 989 * TERA, "float32": 67 * TERA},
        chips_per_host=(8,),
        price=Price(low=2.58, high=6.16, source=_RENTED),
        gke_label="nvidia-h100-mega-80gb",
    ),
    Accelerator(
        name="nvidia-h200-141gb",
        kind="gpu",
        memory=141e9,
        peak={"bf16": 989 * TERA, "float32": 67 * TERA},
        chips_per_host=(8, 1, 2, 4),
        price=Price(low=3.45, high=6.31, source=_RENTED),
        gke_label="nvidia-h200-141gb",
        aliases=("nvidia-h200",),
    ),
    Accelerator(
        name="nvidia-b200",
        kind="gpu",
        memory=180e9,
        peak={"bf16": 2250 * TERA, "float32": 75 * TERA},
        chips_per_host=(8, 1, 2, 4),
        price=Price(low=5.00, high=6.79, source=_RENTED),
        gke_label="nvidia-b200",
    ),
    # XLA computes float32 products in passes of bf16; one pass is the default, weights and sums move as float32.
    Accelerator(
        name="tpu-v4-podslice",
        kind="tpu",
        memory=32 * GIB,
        peak={"bf16": 275 * TERA, "float32": 137 * TERA},
        chips_per_host=(4,),
        topologies=_solids((12, 12, 16)),
        price=Price(low=1.45, high=3.22, source=_LISTED),
        gke_label="tpu-v4-podslice",
        ray_generation="v4",
        cores_per_chip=2,
    ),
    Accelerator(
        name="tpu-v5-lite-podslice",
        kind="tpu",
        memory=16 * GIB,
        peak={"bf16": 197 * TERA, "float32": 98 * TERA},
        chips_per_host=(4, 1, 8),
        topologies=_PLANES,
        price=Price(low=0.54, high=1.20, source=_LISTED),
        gke_label="tpu-v5-lite-podslice",
        ray_generation="v5litepod",
    ),
    Accelerator(
        name="tpu-v5p-slice",
        kind="tpu",
        memory=95 * GIB,
        peak={"bf16": 459 * TERA, "float32": 229 * TERA},
        chips_per_host=(4,),
        topologies=_solids((16, 16, 24)),
        price=Price(low=1.89, high=4.20, source=_LISTED),
        gke_label="tpu-v5p-slice",
        ray_generation="v5p",
        cores_per_chip=2,
    ),
    Accelerator(
        name="tpu-v6e-slice",
        kind="tpu",
        memory=32 * GIB,
        peak={"bf16": 918 * TERA, "float32": 459 * TERA},
        chips_per_host=(4, 1, 8),
        topologies=_PLANES,
        price=Price(low=1.22, high=2.70, source=_LISTED),
        gke_label="tpu-v6e-slice",
        ray_generation="v6e",
    ),
    Accelerator(
        name="tpu7x",
        kind="tpu",
        memory=192 * GIB,
        peak={"bf16": 2307 * TERA, "float32": 1153 * TERA},
        chips_per_host=(4,),
        topologies=(
            *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
            *("4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16"),
        ),
        price=Price(low=5.40, high=12.00, source=_LISTED),
        gke_label="tpu7x",
        ray_generation="v7x",
        cores_per_chip=2,
    ),
)

#: Every accelerator by the name that a pool gives it.
ACCELERATORS: dict[str, Accelerator] = {accelerator.name: accelerator for accelerator in _ALL}

#: Other spellings of the same.
ALIASES: dict[str, str] = {alias: accelerator.name for accelerator in _ALL for alias in accelerator.aliases}
