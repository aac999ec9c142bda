"""What a plan costs: the model where nothing was measured, what was measured where it was, and when it would end."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger.settings import Settings
from ledger.throughput import StepTime, step_times
from orchestrator.at_hand import costs_of, plan_for
from orchestrator.plan.cost import StepModel, Todo, costs
from orchestrator.plan.figure import draw
from orchestrator.plan.plan import Plan, build
from orchestrator.pools import Pool, Pools
from orchestrator.spec import load_spec, load_spec_file
from orchestrator.submit import submit_text
from tests.orchestrator.texts import SMALL

CARDS = Pool(
    name="cards",
    accelerator="nvidia-h100-80gb",
    chips_per_host=2,
    max_nodes=2,
    chips_per_run=0.5,
    price={"low": 2, "high": 4},  # type: ignore[arg-type]
)
SLICES = Pool(name="slices", accelerator="tpu-v6e-slice", topology="2x4")
POOLS = Pools({pool.name: pool for pool in (Pool(name="local", cpus=2, everywhere=True), CARDS, SLICES)}, "")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return build(load_spec(SMALL), data_digest="d")


def measured(flops: float, seconds: float) -> StepTime:
    return StepTime(
        pool="cards", device="cuda", precision="float32", flops=flops, seconds=seconds, segments=3
    )


def test_the_model_is_overhead_and_arithmetic_at_a_share_of_the_peak() -> None:
    model = StepModel(CARDS, "cuda", "bf16", [])
    assert model.seconds(0) == pytest.approx(0.02)
    assert model.seconds(989e12) == pytest.approx(0.02 + 1 / 0.38)
    mine = CARDS.model_copy(update={"utilisation": 0.5})
    assert StepModel(mine, "cuda", "bf16", []).seconds(989e12) == pytest.approx(0.02 + 2)


def test_what_was_measured_corrects_the_model_at_and_around_its_sizes() -> None:
    blank = StepModel(CARDS, "cuda", "float32", [])
    times = [measured(1e9, 0.5), measured(1e15, 100.0)]
    elsewhere = StepTime(pool="slices", device="xla", precision="float32", flops=1e9, seconds=9, segments=1)
    model = StepModel(CARDS, "cuda", "float32", [*times, elsewhere])
    assert model.segments == 6
    assert model.seconds(1e9) == pytest.approx(0.5)
    assert model.seconds(1e15) == pytest.approx(100)
    assert model.seconds(1e6) / blank.seconds(1e6) == pytest.approx(0.5 / blank.seconds(1e9))
    assert 0.5 < model.seconds(1e13) < 100


def test_chips_money_and_time_of_a_pool(plan: Plan) -> None:
    found = {cost.pool.name: cost for cost in costs(plan, POOLS)}
    assert [cost.chosen for cost in found.values()] == [True, False, False]
    cards = found["cards"]
    # Two nodes of two GPUs, two runs to a GPU; a run holds half of one.
    assert (cards.slots, cards.device, cards.basis) == (8, "cuda", "estimated")
    model = StepModel(CARDS, "cuda", "float32", [])
    steps = [(segment.flops / (segment.end - segment.start), segment) for segment in plan.segments]
    hours = sum(model.seconds(flops) * (segment.end - segment.start) for flops, segment in steps) / 3600
    assert cards.chip_hours == pytest.approx(hours / 2)
    document = cards.document(datetime(2026, 1, 1, tzinfo=UTC))
    assert document["cost"]["low"] == pytest.approx(hours)
    assert document["cost"]["high"] == pytest.approx(2 * hours)
    assert document["ends_at"].startswith("2026-01-01T00:0")
    # A TPU run holds its whole slice.
    assert found["slices"].slots == 1
    assert found["slices"].chip_hours == pytest.approx(found["slices"].seconds * 8 / 3600)
    # The machine that is there costs nothing more.
    assert found["local"].document(datetime.now(UTC))["cost"] is None


def test_several_devices_compute_a_step_faster_and_exchange_its_gradient() -> None:
    cards = CARDS.model_copy(update={"chips_per_run": 1.0})
    pools = Pools({"cards": cards, "slices": SLICES}, "")
    text = SMALL.replace("batch_size: 8", "batch_size: 8, micro_batch: 2")
    text += "execution: {pool: cards, device: cuda, devices_per_run: DEVICES}\n"
    one, four = (
        {cost.pool.name: cost for cost in costs(build(load_spec(text.replace("DEVICES", n))), pools)}
        for n in ("1", "4")
    )
    # Two nodes of two GPUs have one run on four.
    assert (one["cards"].slots, four["cards"].slots) == (4, 1)
    assert four["cards"].document(datetime.now(UTC))["devices_per_run"] == 4
    # A slice is always taken whole.
    assert (one["slices"].devices, four["slices"].devices) == (8, 8)
    model = StepModel(cards, "cuda", "float32", [], 4)
    arithmetic = StepModel(cards, "cuda", "float32", []).seconds(1e12) - 0.02
    assert model.seconds(1e12) == pytest.approx(0.02 + arithmetic / 4)
    assert model.seconds(1e12, 10**9) - model.seconds(1e12) == pytest.approx(8e9 * 3 / 4 / 50e9)
    times = [
        StepTime(
            pool="cards", device="cuda", devices=n, precision="float32", flops=1e12, seconds=s, segments=1
        )
        for n, s in ((1, 0.8), (4, 0.3))
    ]
    assert StepModel(cards, "cuda", "float32", times, 4).seconds(1e12, 10**9) == pytest.approx(0.3)


def test_what_is_done_is_not_paid_again_on_the_kind_of_device_that_did_it(plan: Plan) -> None:
    done = plan.with_completed([segment.key for segment in plan.segments])
    found = {cost.pool.name: cost for cost in costs(done, POOLS)}
    assert (found["local"].chip_hours, found["local"].seconds) == (0, 0)
    assert found["cards"].chip_hours > 0


def test_the_end_lies_between_the_longest_chain_and_all_of_the_work(plan: Plan) -> None:
    durations = [float(segment.end - segment.start) for segment in plan.segments]
    one, two, many = (Todo(plan.segments).makespan(durations, slots) for slots in (1, 2, 1000))
    assert one == sum(durations)
    assert many == max(run.cell.steps for run in plan.runs)
    assert sum(durations) / 2 <= two < one
    assert Todo([]).makespan([], 3) == 0


def test_times_come_from_the_ledger(small: str, tmp_path: Path, engine: Engine) -> None:
    settings = Settings(home=tmp_path)
    submit_text(settings, engine, small)
    with engine.begin() as connection:
        connection.execute(
            text("""UPDATE segments SET state = 'completed', checkpoint = 'x',
                    result = '{"loss": 2.0, "steps_per_second": 4}' WHERE parent_key IS NULL""")
        )
    with Session(engine) as session:
        times = step_times(session)
    assert {(time.pool, time.device, time.seconds) for time in times} == {("local", "cpu", 0.25)}
    plan = plan_for(settings, load_spec(small), engine)
    (local,) = [cost for cost in costs_of(settings, plan, engine) if cost.chosen]
    assert local.basis == "measured"
    left = sum(s.end - s.start for s in plan.segments if s.key not in plan.reused)
    assert local.chip_hours * 3600 == pytest.approx(0.25 * left, rel=0.1)


def test_data_that_repeat_and_levels_that_lack_are_said_beforehand(
    small: str, tmp_path: Path, engine: Engine
) -> None:
    settings = Settings(home=tmp_path)
    submit_text(settings, engine, small)
    said = " ".join(plan_for(settings, load_spec(small), engine).warnings())
    assert "go through their data more than once" in said
    short = load_spec(small.replace("[80, 160, 320]", "[80, 160]"))
    said = " ".join(plan_for(settings, short, None).warnings())
    assert "the law cannot be identified: data has 2 levels" in said


def test_an_exclusion_that_hits_nothing_is_told() -> None:
    spec = SMALL.replace(
        "  steps:", '  exclude: [{sparsity: 0.9}, {sparsity: [0.75, 0.9], steps: 80}, {seed: "0"}]\n  steps:'
    )
    found = [each for each in build(load_spec(spec)).warnings() if "exclude" in each]
    assert found == [
        "grid.exclude[0] leaves out no cell: {'sparsity': 0.9} is not in the grid",
        "grid.exclude[2] leaves out no cell: {'seed': '0'} is not in the grid",
    ]


def test_a_budget_for_no_cell_is_told() -> None:
    def told(budget: float) -> list[str]:
        spec = load_spec(SMALL + f"execution: {{strategy: adaptive, budget_flops: {budget}}}\n")
        return [each for each in build(spec).warnings() if "budget_flops" in each]

    cheapest = min(run.flops_per_step * run.cell.steps for run in build(load_spec(SMALL)).runs)
    assert told(cheapest) == []
    assert len(told(0.99 * cheapest)) == 1


def test_what_shares_nothing_saves_nothing() -> None:
    spec = SMALL.replace("[80, 160, 320]", "[1e18]").replace("[16e3, 32e3, 64e3]", "[16e3]")
    assert str(build(load_spec(spec)).saved) == "0.0"


def test_the_largest_checkpoints_are_weights_moments_and_masks(plan: Plan) -> None:
    largest = plan.checkpoints[0]
    run = next(run for run in plan.runs if run.name == largest["run"])
    assert largest["bytes"] == 8 * run.shape.total + run.shape.linear // 8
    assert largest["params"] == max(other.shape.total for other in plan.runs)


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("adafactor-vit", 2), ("adafactor", 1)])
def test_every_optimiser_has_its_moments_in_a_checkpoint(optimizer: str, moments: int) -> None:
    spec = SMALL.replace("batch_size: 8", f"batch_size: 8, optimizer: {optimizer}")
    largest = build(load_spec(spec)).document()["checkpoints"][0]
    assert 4 * (1 + moments) < largest["bytes"] / largest["params"] < 4 * (1 + moments) + 1 / 8


def test_the_forest_is_drawn_with_every_run(plan: Plan, tmp_path: Path) -> None:
    draw(plan, tmp_path / "forest.svg")
    first = (tmp_path / "forest.svg").read_bytes()
    root = ElementTree.fromstring(first)
    words = " ".join(root.itertext())
    assert "27 runs are" in words
    assert "S = 75 %" in words
    draw(plan, tmp_path / "forest.svg")
    assert (tmp_path / "forest.svg").read_bytes() == first


def test_the_papers_sweeps_share_what_the_paper_could_have_shared() -> None:
    examples = Path(__file__).parents[2] / "examples"
    t5 = build(load_spec_file(examples / "paper-t5.yaml"))
    assert len(t5.runs) == 48
    assert t5.saved_nominal == pytest.approx(0.1568, abs=1e-4)
    assert t5.saved == pytest.approx(0.1565, abs=1e-4)
    assert build(load_spec_file(examples / "paper-vit.yaml")).document()["runs"] == 112
    extensions = build(load_spec_file(examples / "paper-extensions.yaml"))
    assert extensions.saved > 1.4 * t5.saved
