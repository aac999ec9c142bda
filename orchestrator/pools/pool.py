"""A pool: nodes of one kind, as the operator declares them. The keys are those of the chart's `pools` value."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from orchestrator.pools.accelerators import ACCELERATORS, ALIASES, Accelerator, Kind, Price
from orchestrator.pools.topology import PoolError, chips, chips_per_host, hosts

#: Devices of the trainer (spec: execution.device) that each kind of node has.
DEVICES: dict[Kind, tuple[str, ...]] = {"cpu": ("cpu", "xla"), "gpu": ("cpu", "cuda"), "tpu": ("cpu", "xla")}


class _Part(BaseModel):
    """Unknown keys are refused; keys may be written as in the chart (maxNodes) or as in a spec (max_nodes)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


class PoolPrice(_Part):
    """What a chip (a core, on a CPU pool) costs an hour."""

    low: float = Field(ge=0, description="Least, in dollars per chip and hour.")
    high: float = Field(ge=0, description="Most, in dollars per chip and hour.")

    @model_validator(mode="after")
    def _ordered(self) -> PoolPrice:
        if self.high < self.low:
            raise ValueError(f"high {self.high:g} is less than low {self.low:g}: swap them")
        return self


class Pool(_Part):
    """Nodes of one kind. A TPU slice of several hosts counts as one node: it comes and goes as a whole."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$", description="What specs call it.")
    accelerator: str = Field(default="cpu", description="Kind of chip; cpu for none.")
    topology: str = Field(default="", description="TPU slice, such as 4x4; TPU pools only.")
    chips_per_host: int | None = Field(
        default=None, ge=1, description="Chips of a host; default: the usual number."
    )
    cpus: float | None = Field(
        default=None,
        gt=0,
        description="CPU cores of a node that workers may use; default: resources.cpu, else 4.",
    )
    min_nodes: int = Field(default=0, ge=0, description="Nodes that are always there.")
    max_nodes: int = Field(default=1, ge=1, description="Nodes that there may be.")
    spot: bool = Field(default=False, description="Whether nodes may be taken away at any moment.")
    chips_per_run: float = Field(
        default=1.0,
        gt=0,
        description="A fraction lets runs share a GPU. How many whole ones a run takes, its spec says.",
    )
    price: PoolPrice | None = Field(
        default=None, description="Dollars per chip and hour; default: a public band, dated."
    )
    utilisation: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        validation_alias=AliasChoices("utilisation", "utilization"),
        description="Share of the peak that training reaches, until it is measured.",
    )
    image: Any = Field(default=None, description="The chart's business.")
    resources: dict[str, Any] = Field(default={}, description="The chart's business, but for its CPU cores.")
    queue: str = Field(default="", description="Kueue queue; the chart's business.")
    assumed: bool = Field(default=False, exclude=True, description="Not declared by anyone: for plans only.")
    everywhere: bool = Field(
        default=False, exclude=True, description="Any node will do: this machine, or the cluster as it is."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """A chart writes null where it has nothing to say."""
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None}

    @field_validator("accelerator")
    @classmethod
    def _known(cls, value: str) -> str:
        value = ALIASES.get(value, value)
        if value not in ACCELERATORS:
            raise ValueError(nearest(value, ACCELERATORS, "there is no accelerator"))
        return value

    @model_validator(mode="after")
    def _fits(self) -> Pool:
        kind = self.kind
        if self.max_nodes < self.min_nodes:
            raise ValueError(f"maxNodes {self.max_nodes} is less than minNodes {self.min_nodes}")
        if kind != "tpu" and self.topology:
            raise ValueError(f"a pool of {self.accelerator} has no topology: leave topology out")
        if kind == "tpu":
            self._slice_fits()
        elif kind == "gpu" and self.chips_per_host not in (None, *self.spec.chips_per_host):
            raise ValueError(
                f"a host has {_or(self.spec.chips_per_host)} {self.accelerator}, not {self.chips_per_host}"
            )
        elif kind == "cpu" and self.chips_per_host is not None:
            raise ValueError("a pool of cpu has no chips: leave chipsPerHost out, and say cpus")
        if self.chips_per_run > 1 or (kind != "gpu" and self.chips_per_run != 1):
            raise ValueError(
                "chipsPerRun is a fraction of one GPU: for several, a spec says execution.devices_per_run"
            )
        return self

    def _slice_fits(self) -> None:
        if self.topology not in self.spec.topologies:
            known = ", ".join(self.spec.topologies[:12]) + (" …" if len(self.spec.topologies) > 12 else "")
            missing = "needs a topology" if not self.topology else f"has no topology {self.topology}"
            raise ValueError(f"{self.accelerator} {missing}: use one of {known}")
        if self.per_host not in self.spec.chips_per_host:
            raise ValueError(
                f"a host has {_or(self.spec.chips_per_host)} chips of {self.accelerator}, not {self.per_host}"
            )
        if chips(self.topology) > self.per_host > 4:
            raise ValueError(
                f"hosts of {self.per_host} chips stand alone: a slice of {self.topology} is made of hosts of 4"
            )
        hosts(self.topology, self.per_host)

    @property
    def spec(self) -> Accelerator:
        """What is known of its chips."""
        return ACCELERATORS[self.accelerator]

    @property
    def kind(self) -> Kind:
        """cpu, gpu or tpu."""
        return self.spec.kind

    @property
    def per_host(self) -> int:
        """Chips of a host; 0 on a CPU pool."""
        if self.kind == "cpu":
            return 0
        if self.chips_per_host is not None:
            return self.chips_per_host
        return chips_per_host(self.spec, self.topology) if self.topology else self.spec.chips_per_host[0]

    @property
    def hosts(self) -> int:
        """Hosts of one node: more than one for a TPU slice over several (KubeRay's numOfHosts)."""
        return hosts(self.topology, self.per_host) if self.kind == "tpu" else 1

    @property
    def cores(self) -> float:
        """CPU cores of a host that workers may use."""
        if self.cpus is not None:
            return self.cpus
        requested = self.resources.get("requests")
        stated = (requested if isinstance(requested, dict) else self.resources).get("cpu")
        return 4.0 if stated is None else _cores(stated)

    @property
    def slice_chips(self) -> int:
        """Chips of a TPU slice, which a run on `xla` takes whole."""
        return chips(self.topology)

    def runs(self, device: str, devices: int = 1) -> int:
        """Runs that train at a time on all of its nodes, each on so many devices; 0: it has not so many."""
        if device == "xla" and self.kind == "tpu":
            return self.max_nodes
        if device == "cuda":
            on_a_node = int(self.per_host / self.chips_per_run + 1e-9)
        else:
            on_a_node = max(int(self.cores), 1)
        if devices <= on_a_node:
            return on_a_node // devices * self.max_nodes
        return on_a_node * self.max_nodes // devices

    def chips_per_slot(self, devices: int = 1) -> float:
        """Chips (cores, on a CPU pool) that one run on so many devices occupies and somebody pays for."""
        return float(self.slice_chips) if self.kind == "tpu" else devices * self.chips_per_run

    def lacks(self, device: str, devices: int) -> str | None:
        """Why no run can train on so many of its devices, with what would be right; None where one can."""
        if device == "xla":
            whole = self.slice_chips if self.kind == "tpu" else 1
            if devices != whole:
                what = f"slices of {whole} chip{'s' if whole > 1 else ''}" if self.kind == "tpu" else "no TPU"
                return f"has {what}, of which a run takes the whole: set execution.devices_per_run to {whole}"
            return None
        if device == "cuda" and devices > 1 and self.chips_per_run != 1:
            return f"shares each GPU between runs (chipsPerRun {self.chips_per_run:g}): a run trains on one"
        if not self.everywhere and not self.runs(device, devices):
            return f"has not so many devices as execution.devices_per_run says, {devices}: it has {self.runs(device)}"
        return None

    @property
    def cost(self) -> Price | None:
        """Price band per chip and hour; None where nobody states one."""
        if self.price is not None:
            return Price(low=self.price.low, high=self.price.high, source="declared with the pool")
        return self.spec.price


def _cores(quantity: Any) -> float:
    """Kubernetes' way to write CPU: 8, "8", "7500m"."""
    text = str(quantity)
    try:
        return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        raise PoolError(f"resources.cpu is {quantity!r}: write cores, as 8 or 7500m") from None


def _or(numbers: tuple[int, ...]) -> str:
    return " or ".join(map(str, sorted(numbers)))


def nearest(name: str, known: Any, what: str) -> str:
    """ "there is no pool gpuu: did you mean `gpu`?" """
    longer = [other for other in known if name and other.startswith(name)]
    near = longer or difflib.get_close_matches(name, list(known), 1)
    hint = f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(known)}"
    return f"{what} {name!r}: {hint}"
