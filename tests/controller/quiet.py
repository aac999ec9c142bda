"""What the runs of a ledger come to when nothing disturbs them."""

from __future__ import annotations

from pathlib import Path

from ledger.engine import connect
from ledger.settings import Settings
from tests.controller.watching import rows


def quiet_losses(settings: Settings) -> dict[str, float]:
    """The losses of the same runs, each trained alone, in this process, without segments or interruptions."""
    import torch

    from trainer.metrics import NoSink
    from trainer.program import Program
    from trainer.segment import train_segment

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = connect(settings.database_url or "")
    found = {}
    tips = "SELECT runs.name, program, data_path, end_step FROM runs JOIN segments ON key = tip_key ORDER BY runs.id"
    for row in rows(engine, tips):
        output = str(settings.home / "alone" / row.name)
        result = train_segment(
            *(Program.from_dict(row.program), 0, row.end_step),
            data=Path(row.data_path),
            parent=None,
            output=output,
            sink=NoSink(),
        )
        found[row.name] = result.loss
    engine.dispose()
    torch.set_num_threads(threads)
    return found
