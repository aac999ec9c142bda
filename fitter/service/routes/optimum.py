"""The optimal sparsity, and what sparse training really cost."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy.orm import Session

from fitter.accounting import Accounting as HowPriced
from fitter.measurement import MeasuredCosts, measured_costs, of_runs
from fitter.question import first_question
from fitter.service import queries
from fitter.service.context import Context, InContext, SweepName, known_sweep
from fitter.service.laws import StoredLaw, group_of
from fitter.service.problems import unanswerable
from fitter.service.routes.questions import (
    InAccounting,
    InFlopsOrNone,
    InGroup,
    InParamsOrNone,
    Version,
    asked_law,
    number,
)
from fitter.service.schemas import Accounting, Costs, Optima, OptimumAnswer, OptimumQuestions
from ledger import runs

router = APIRouter(prefix="/v1/sweeps/{name}", tags=["law"])


@router.get("/law/optimum", operation_id="optimum", summary="How sparse a model should be")
def optimum(
    context: InContext,
    name: SweepName,
    nonzero_params: InParamsOrNone = None,
    flops: InFlopsOrNone = None,
    accounting: InAccounting = "dense",
    version: Version = None,
    group: InGroup = None,
) -> OptimumAnswer:
    """The sparsity that minimises the predicted loss of a model with N non-zero parameters and C training FLOPs.

    A sparser model is larger while it trains, so at the same C it sees less data; the optimum balances both. Without N
    and C it is the question that the sweep's own runs answer best.
    """
    stored = asked_law(context, name, version, group)
    if nonzero_params is None and flops is None:
        nonzero_params, flops = stored.remember(("first question",), lambda: first_question(stored.law))
    if nonzero_params is None or flops is None:
        raise unanswerable("nonzero_params and flops go together: send both, or neither.")
    return _optima(stored, [nonzero_params], [flops], accounting, pricing(context, stored, accounting))[0]


@router.post("/law/optimum", operation_id="optimum_many", summary="How sparse many models should be")
def optimum_many(
    context: InContext,
    name: SweepName,
    questions: OptimumQuestions,
    version: Version = None,
    group: InGroup = None,
) -> Optima:
    """As the single question, for up to 500 models at once; columns must be of one length."""
    if len(questions.nonzero_params) != len(questions.flops):
        raise unanswerable(
            f"nonzero_params and flops have {len(questions.nonzero_params)} and {len(questions.flops)} values: they "
            "must be of one length."
        )
    stored = asked_law(context, name, version, group)
    if questions.measured is not None:
        if questions.accounting != "measured":
            raise unanswerable(
                f"measured costs were sent with accounting '{questions.accounting}': send accounting 'measured'."
            )
        how: HowPriced = measured_costs(questions.measured.model_dump()).accounting
    else:
        how = pricing(context, stored, questions.accounting)
    return Optima(items=_optima(stored, questions.nonzero_params, questions.flops, questions.accounting, how))


@router.get("/costs", operation_id="get_costs", summary="What sparse training really cost")
def get_costs(context: InContext, name: SweepName, group: InGroup = None) -> Costs:
    """Multipliers for `measured` accounting: time per token at each sparsity, over that of dense runs of equal N."""
    with Session(context.engine) as session:
        sweep = known_sweep(session.connection(), name)
        wanted = group_of(session.connection(), sweep.id, group)
        return Costs(**_measured(session, sweep, wanted).document())


def pricing(context: Context, stored: StoredLaw, accounting: Accounting) -> HowPriced:
    """How the library counts cost. Raises SettingError where the sweep's runs have no times."""
    if accounting != "measured":
        return accounting

    def ask() -> MeasuredCosts:
        with Session(context.engine) as session:
            return _measured(session, known_sweep(session.connection(), stored.sweep), stored.group)

    return stored.remember(("costs",), ask).accounting


def _measured(session: Session, sweep: queries.SweepRow, group: str) -> MeasuredCosts:
    """What the runs of a group cost. Raises SettingError where they have no times."""
    rows = runs.training_seconds(session, sweep.name)
    if group:
        members = queries.groups(session.connection(), sweep.id).get(group, frozenset())
        rows = [row for row in rows if row["position"] in members]
    return of_runs(rows)


def _optima(
    stored: StoredLaw,
    nonzero_params: list[float],
    flops: list[float],
    accounting: Accounting,
    how: HowPriced,
) -> list[OptimumAnswer]:
    best = stored.law.optimum(nonzero_params, flops, how)
    return [
        OptimumAnswer(
            nonzero_params=nonzero_params[i],
            flops=flops[i],
            accounting=accounting,
            sparsity=float(best.sparsity[i]),
            low=number(best.low[i]),
            high=number(best.high[i]),
            level=best.level,
            data=float(best.data[i]),
            loss=float(best.loss[i]),
            loss_low=number(best.loss_low[i]),
            loss_high=number(best.loss_high[i]),
            dense_loss=float(best.dense_loss[i]),
            multiplier=float(best.multiplier[i]),
            extrapolates=bool(best.extrapolates[i]),
            version=stored.version,
            group=stored.group,
        )
        for i in range(len(flops))
    ]
