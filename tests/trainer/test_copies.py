"""Prepared data travel through the storage, checked, once a machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.data import DataSource, Prepared, copies, open_prepared, prepare
from trainer.data.prepared import folder_of
from trainer.errors import DataError


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number}.txt").write_text(f"document {number} " * 20)
    return prepare(DataSource(source=str(corpus), validation_share=0.2), tmp_path / "here")


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_another_machine_gets_the_same_bytes(prepared: Prepared, tmp_path: Path, scheme: str) -> None:
    storage = f"{scheme}{tmp_path}/storage"
    copies.publish(prepared, storage)
    copies.publish(prepared, storage)
    elsewhere = tmp_path / "elsewhere" / prepared.path.name
    left = elsewhere.parent / f".{folder_of(elsewhere.parent, prepared.digest).name}.ab12"
    left.mkdir(parents=True)  # by one that was killed while it fetched
    with ThreadPoolExecutor(4) as workers:
        folders = list(
            workers.map(lambda _: copies.on_this_machine(elsewhere, prepared.digest, storage), range(4))
        )
    assert len(set(folders)) == 1
    assert not left.exists()
    copied = open_prepared(folders[0])
    copied.verify()
    assert copied.digest == prepared.digest
    assert (copied.path / "train-00000.bin").read_bytes() == (prepared.path / "train-00000.bin").read_bytes()


def test_the_machine_that_prepared_them_copies_nothing(prepared: Prepared, tmp_path: Path) -> None:
    assert copies.on_this_machine(prepared.path, prepared.digest, str(tmp_path / "none")) == prepared.path


def test_data_that_are_nowhere_are_named(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{prepared.digest[:12]} are neither in .*/x/y on this machine"):
        copies.on_this_machine(tmp_path / "x" / "y", prepared.digest, str(tmp_path / "none"))
    assert not (tmp_path / "x").exists()


def test_a_copy_that_was_altered_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    url = Path(copies.publish(prepared, str(tmp_path / "storage")))
    content = bytearray((url / "train-00000.bin").read_bytes())
    content[10] ^= 1
    (url / "train-00000.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000\.bin was altered"):
        copies.on_this_machine(tmp_path / "x" / "y", prepared.digest, str(tmp_path / "storage"))
    assert list((tmp_path / "x").glob("[!.]*")) == []
