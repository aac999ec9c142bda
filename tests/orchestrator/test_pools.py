"""Pools: the arithmetic of slices, a file that is read whole or refused whole, and what a run asks of Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.settings import Settings
from orchestrator.plan.plan import build
from orchestrator.pools import ACCELERATORS, Pool, PoolError, chips, declared, hosts, pod_type
from orchestrator.pools.declared import read_pools
from orchestrator.pools.resources import bundles
from orchestrator.pools.topology import chips_per_host
from orchestrator.spec import SpecError, load_spec
from tests.orchestrator.texts import SMALL

SLICES = [
    (name, topology) for name, accelerator in ACCELERATORS.items() for topology in accelerator.topologies
]


@pytest.mark.parametrize(
    ("accelerator", "topology", "of_host", "of_slice", "name"),
    [
        ("tpu-v6e-slice", "4x4", 4, 4, "v6e-16"),
        ("tpu-v6e-slice", "2x4", 8, 1, "v6e-8"),
        ("tpu-v6e-slice", "1x1", 1, 1, "v6e-1"),
        ("tpu-v5-lite-podslice", "16x16", 4, 64, "v5litepod-256"),
        ("tpu-v4-podslice", "2x2x1", 4, 1, "v4-8"),
        ("tpu-v4-podslice", "2x2x2", 4, 2, "v4-16"),
        ("tpu-v5p-slice", "4x4x8", 4, 32, "v5p-256"),
        ("tpu7x", "2x2x4", 4, 4, "v7x-32"),
    ],
)
def test_a_slice_has_the_hosts_that_its_topology_says(
    accelerator: str, topology: str, of_host: int, of_slice: int, name: str
) -> None:
    pool = Pool(name="p", accelerator=accelerator, topology=topology)
    assert (pool.per_host, pool.hosts) == (of_host, of_slice)
    assert pod_type(pool.spec, topology) == name


ASK_RAY = """
import json, sys
from ray._private.accelerators import tpu
for generation, topology in json.load(sys.stdin):
    assert topology in tpu.VALID_TPU_TOPOLOGY[generation], (generation, topology)
    print(json.dumps([tpu.infer_tpu_pod_type_from_topology(topology, generation),
                      tpu.get_num_chips_from_topology(topology), tpu.get_chips_per_host(topology, generation)]))
"""


def test_every_slice_is_one_that_ray_knows_and_counts_the_same() -> None:
    slices = [(ACCELERATORS[name], topology) for name, topology in SLICES]
    # In a process of its own: Ray reads its settings when it is imported, and other tests of this process have theirs.
    asked = subprocess.run(
        [sys.executable, "-c", ASK_RAY],
        input=json.dumps([(accelerator.ray_generation, topology) for accelerator, topology in slices]),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert len(answers) > 60
    assert answers == [
        [pod_type(accelerator, topology), chips(topology), chips_per_host(accelerator, topology)]
        for accelerator, topology in slices
    ]


def test_a_slice_of_eight_chips_may_lie_on_two_hosts() -> None:
    assert Pool(name="p", accelerator="tpu-v6e-slice", topology="2x4", chips_per_host=4).hosts == 2


@pytest.mark.parametrize(("topology", "per_host"), [("2x2", 8), ("3x2", 4), ("1x1", 4), ("4x4", 0)])
def test_hosts_that_do_not_make_up_a_slice_are_refused(topology: str, per_host: int) -> None:
    with pytest.raises(PoolError, match="cannot make up"):
        hosts(topology, per_host)


@pytest.mark.parametrize("topology", ["", "4", "4x", "x4", "4x4x4x4", "0x4", "4*4", "4x4 "])
def test_what_is_no_topology_is_refused(topology: str) -> None:
    with pytest.raises(PoolError, match="write the sides"):
        chips(topology)


WRONG = [
    ("{accelerator: tpu-v6e-slice, topology: 4x4}", "name", "Field required"),
    ("{name: UP, accelerator: cpu}", "name", "pattern"),
    ("{name: a, accelerator: nvidia-h100}", "accelerator", "did you mean `nvidia-h100-80gb`"),
    ("{name: a, accelerator: tpu-v6e-slice}", "pools[0]", "needs a topology: use one of 1x1"),
    ("{name: a, accelerator: tpu-v6e-slice, topology: 2x2x2}", "pools[0]", "no topology 2x2x2"),
    ("{name: a, accelerator: tpu-v4-podslice, topology: 4x2x2}", "pools[0]", "no topology 4x2x2"),
    ("{name: a, accelerator: tpu-v6e-slice, topology: 4x4, chipsPerHost: 8}", "pools[0]", "stand alone"),
    ("{name: a, accelerator: tpu-v4-podslice, topology: 2x2x1, chipsPerHost: 8}", "pools[0]", "a host has 4"),
    ("{name: a, accelerator: cpu, topology: 2x2}", "pools[0]", "has no topology"),
    ("{name: a, accelerator: cpu, chipsPerHost: 2}", "pools[0]", "say cpus"),
    ("{name: a, accelerator: nvidia-l4, chipsPerHost: 3}", "pools[0]", "1 or 2 or 4 or 8"),
    ("{name: a, accelerator: nvidia-l4, chipsPerRun: 2}", "pools[0]", "fraction of one GPU"),
    ("{name: a, minNodes: 3, maxNodes: 2}", "pools[0]", "less than minNodes 3"),
    ("{name: a, price: {low: 3, high: 2}}", "price", "swap them"),
    ("{name: a, maxNode: 2}", "maxNode", "did you mean `maxNodes`"),
    ("{name: a, resources: {cpu: lots}, cpus: -1}", "cpus", "greater than 0"),
    ("{name: local}", "name", "this machine's"),
    ("3", "pools[0]", "valid dictionary"),
]


@pytest.mark.parametrize(("text", "path", "says"), WRONG)
def test_a_wrong_pool_is_named_with_what_would_be_right(
    tmp_path: Path, text: str, path: str, says: str
) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text(f"pools:\n  - {text}\n")
    with pytest.raises(PoolError) as refused:
        read_pools(file)
    message = str(refused.value)
    assert message.startswith(f"{file}: ")
    assert "line 2: " in message
    assert path in message
    assert says in message


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text("pools:\n" + "".join(f"  - {text}\n" for text, _, _ in WRONG) + "pool: 3\n")
    with pytest.raises(PoolError) as refused:
        read_pools(file)
    for _, _, says in WRONG:
        assert says in str(refused.value)
    assert "unknown key pool" in str(refused.value)


@pytest.mark.parametrize("text", ["", "- 1", "pools: 3", "pools: [", "a: 1"])
def test_a_file_that_declares_nothing_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text(text)
    with pytest.raises(PoolError, match=r"pools\.yaml"):
        read_pools(file)


DECLARED = """\
pools:
  - {name: h100, accelerator: nvidia-h100-80gb, chipsPerHost: 8, maxNodes: 2, chipsPerRun: 0.25}
  - {name: v6e, accelerator: tpu-v6e-slice, topology: 4x4, price: {low: 1, high: 2}}
  - {name: cores, accelerator: cpu, resources: {requests: {cpu: 7500m}}, image: null, queue: team}
"""


#: Whose batches of 16 two processes can share.
SHARED = SMALL.replace("batch_size: 8", "batch_size: 16, micro_batch: 8")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "pools.yaml").write_text(DECLARED)
    return Settings(home=tmp_path)


def test_pools_are_read_from_the_home_or_from_where_the_variable_says(settings: Settings) -> None:
    pools = declared(settings)
    assert list(pools.by_name) == ["local", "h100", "v6e", "cores"]
    assert pools.get("cores").cores == 7.5
    assert pools.get("h100").runs("cuda") == 64
    assert (pools.get("v6e").runs("xla", 16), pools.get("v6e").chips_per_slot(16)) == (1, 16)
    elsewhere = Settings.from_environment({"LACUNA_POOLS": str(settings.home / "pools.yaml")})
    assert list(declared(elsewhere).by_name) == list(pools.by_name)


def test_prices_are_the_declared_or_a_band_that_says_where_it_comes_from(settings: Settings) -> None:
    pools = declared(settings)
    stated, public = pools.get("v6e").cost, pools.get("h100").cost
    assert stated is not None
    assert public is not None
    assert (stated.low, stated.high, stated.source) == (1, 2, "declared with the pool")
    assert public.low < public.high
    assert "2026" in public.source


def test_without_a_file_there_is_this_machine_and_what_a_plan_assumes(tmp_path: Path) -> None:
    pools = declared(Settings(home=tmp_path))
    assert list(pools.by_name) == ["local", "gpu", "tpu"]
    assert not pools.get("local").assumed
    assert pools.get("gpu").assumed


def test_a_pool_that_nobody_declared_is_refused_when_a_spec_is_checked(settings: Settings) -> None:
    pools = declared(settings)
    text = SMALL + "execution: {pool: h10, device: cuda}\n"
    with pytest.raises(SpecError) as refused:
        load_spec(text, pools=pools)
    (problem,) = refused.value.problems
    assert (problem.path, problem.line, problem.value) == ("execution.pool", text.count("\n"), "h10")
    assert "did you mean `h100`?" in problem.message
    assert "pools.yaml declares local, h100, v6e, cores" in problem.message
    assert load_spec(text.replace("h10,", "h100,"), pools=pools).execution.pool == "h100"


def test_a_pool_without_the_device_is_refused(settings: Settings) -> None:
    with pytest.raises(SpecError, match=r"pool 'cores' has cpu and no device 'cuda'.*another pool \(.*h100"):
        load_spec(SMALL + "execution: {pool: cores, device: cuda}\n", pools=declared(settings))


def test_a_run_asks_ray_for_cores_a_share_of_a_gpu_or_a_whole_slice(settings: Settings) -> None:
    pools = declared(settings)
    assert bundles(pools.get("local"), "cpu").bundles == ({"CPU": 1.0},)
    assert bundles(pools.get("cores"), "cpu").bundles == ({"CPU": 1.0, "pool:cores": 0.001},)
    assert bundles(pools.get("h100"), "cuda").bundles == ({"CPU": 1.0, "GPU": 0.25, "pool:h100": 0.001},)
    assert "GPU" not in bundles(pools.get("h100"), "cpu").bundles[0]
    gang = bundles(pools.get("v6e"), "xla")
    assert gang.gang
    assert gang.strategy == "STRICT_SPREAD"
    assert len(gang.bundles) == 4
    assert gang.bundles[0] == {"CPU": 1.0, "TPU": 4.0, "pool:v6e": 0.001, "TPU-v6e-16-head": 1.0}
    assert all("TPU-v6e-16-head" not in bundle for bundle in gang.bundles[1:])
    assert all(bundle["TPU"] == 4 for bundle in gang.bundles)
    whole = Pool(name="whole", accelerator="nvidia-h100-80gb", chips_per_host=8, max_nodes=2)
    assert bundles(whole, "cuda").strategy == "PACK"
    four, sixteen = bundles(whole, "cuda", 4), bundles(whole, "cuda", 16)
    assert four.bundles == ({"CPU": 1.0, "GPU": 1.0, "pool:whole": 0.001},) * 4
    assert (four.strategy, sixteen.strategy) == ("STRICT_PACK", "PACK"), (
        "of one node, where a node has so many"
    )
    assert [whole.runs("cuda", devices) for devices in (1, 3, 8, 16, 17)] == [16, 4, 2, 1, 0]
    assert bundles(pools.get("local"), "cpu", 2).bundles == ({"CPU": 1.0},) * 2


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        ("{pool: v6e, device: xla}", r"slices of 16 chips.*set execution.devices_per_run to 16"),
        ("{pool: v6e, device: xla, devices_per_run: 4}", r"set execution.devices_per_run to 16"),
        ("{pool: cores, device: xla, devices_per_run: 2}", r"has no TPU.*devices_per_run to 1"),
        (
            "{pool: h100, device: cuda, devices_per_run: 2}",
            r"shares each GPU between runs \(chipsPerRun 0.25\)",
        ),
        ("{pool: cores, devices_per_run: 8}", r"not so many devices.*8: it has 7"),
    ],
)
def test_a_pool_without_so_many_devices_for_a_run_is_refused(
    settings: Settings, execution: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        load_spec(f"{SHARED}execution: {execution}\n", pools=declared(settings))


def test_the_devices_of_a_run_are_in_its_key_where_they_change_its_bits(settings: Settings) -> None:
    def keys(execution: str) -> list[str]:
        plan = build(
            load_spec(f"{SHARED}execution: {execution}\n", pools=declared(settings)), data_digest="d"
        )
        return [segment.key for segment in plan.segments]

    assert keys("{devices_per_run: 2}") == keys("{devices_per_run: 1}")
    slices = keys("{pool: v6e, device: xla, devices_per_run: 16}")
    assert slices != keys("{device: xla}"), "the compiler sums in another order"


def test_batches_that_the_devices_of_a_run_cannot_share_are_refused() -> None:
    refused = "set micro_batch to 4 or a divisor of it"
    with pytest.raises(SpecError, match=refused) as found:
        load_spec(SMALL + "execution: {devices_per_run: 2}\n")
    assert found.value.problems[0].path == "execution.devices_per_run"
    with pytest.raises(SpecError, match="32 chips cannot share batches of 8: use a multiple of 32"):
        load_spec(SMALL + "execution: {device: xla, devices_per_run: 32}\n")
