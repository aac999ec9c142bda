"""`lacuna data`: turn a source into the memory-mapped arrays that runs read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.command.output import console, count, print_json

if TYPE_CHECKING:
    from trainer.data import Prepared


@click.group(name="data")
def command() -> None:
    """Prepare data for training.

    \b
      lacuna data prepare python-source --max-tokens 8000000
    """


@command.command()
@click.argument("source")
@click.option("--subset", default="", help="Configuration of a `datasets` id.")
@click.option("--revision", default="", help="Revision of a `datasets` id.")
@click.option("--text-column", default="text", show_default=True, help="Column that holds the text.")
@click.option("--tokenizer", default="byte", show_default=True, help="`byte`, or a transformers tokenizer.")
@click.option("--max-tokens", default=0, type=click.IntRange(min=0), help="At most so many training tokens.")
@click.option(
    "--validation-share", default=0.01, show_default=True, help="Share of the documents that is held out."
)
@click.option("--image-column", default="", help="Column that holds images, where the source does.")
@click.option("--label-column", default="label", show_default=True, help="Column of class numbers.")
@click.option(
    "--image-size", default=0, type=click.IntRange(min=0), help="Side to resize images to; 0: as is."
)
@click.option(
    "--max-labels", default=1, show_default=True, type=click.IntRange(min=1), help="Room for labels an image."
)
@click.option(
    "--workers", default=None, type=click.IntRange(min=1), help="Processes that encode; default: one a core."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def prepare(
    source: str,
    subset: str,
    revision: str,
    text_column: str,
    tokenizer: str,
    max_tokens: int,
    validation_share: float,
    image_column: str,
    label_column: str,
    image_size: int,
    max_labels: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Tokenise or decode SOURCE once, into LACUNA_HOME. Nothing is done where that has happened already; killed, the
    same command goes on where it was.

    SOURCE is `python-source` (the Python files of this machine), `digits` (scikit-learn's images), a local file
    of text, parquet, arrow, csv or json or a folder of such, or the id of a dataset on the Hugging Face hub.

    \b
      lacuna data prepare python-source --max-tokens 8000000
      lacuna data prepare ./corpus --tokenizer ./my-tokenizer
      lacuna data prepare ./photos --image-column image --image-size 64
      lacuna data prepare allenai/c4 --subset en --max-tokens 1000000000 --tokenizer google/t5-v1_1-base
    """
    from ledger.settings import Settings
    from trainer import data

    wanted = data.DataSource(
        source=source,
        subset=subset,
        revision=revision,
        text_column=text_column,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        validation_share=validation_share,
        image_column=image_column,
        label_column=label_column,
        image_size=image_size,
        max_labels=max_labels,
    )
    root = Settings.from_environment().data
    present = data.find(wanted, root)
    if present is not None:
        return _show(present, source, as_json, reused=True)
    with console(stderr=True).status(f"preparing {source}") as status:
        prepared = data.prepare(
            wanted,
            root,
            workers=workers,
            progress=lambda tokens: status.update(f"preparing {source}: {count(tokens)} training tokens"),
        )
    _show(prepared, source, as_json, reused=False)


def _show(prepared: Prepared, source: str, as_json: bool, *, reused: bool) -> None:
    if as_json:
        return print_json({"path": str(prepared.path), "reused": reused, **prepared.manifest})
    image = prepared.manifest.get("image")
    row = prepared.manifest.get("row", 1)
    kind = "tokens" if image is None else f"images of {prepared.vocab_size} classes"
    train, validation = count(prepared.train_tokens / row), count(prepared.validation_tokens / row)
    click.echo(
        f"{source} {'was prepared already' if reused else 'is prepared'}: {train} training and {validation} "
        f"validation {kind} of {prepared.manifest['documents']} documents\n"
        f"  {prepared.path}\n  digest {prepared.digest}"
    )
