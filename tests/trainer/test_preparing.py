"""Preparing at length: in shards, by several processes, through kills; read as one array, checked once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.tokenizers import words_tokenizer
from trainer.data import DataSource, Prepared, encoding, find, open_prepared, prepare
from trainer.data.array import ShardedArray
from trainer.data.prepared import VERIFIED
from trainer.data.shards import JOURNAL, ShardWriter
from trainer.data.tokens import ByteTokenizer
from trainer.errors import DataError

#: The sizes of these tests: a dozen units in several shards.
SIZES = {"unit_bytes": 8_000, "shard_bytes": 4_000}


@pytest.fixture
def slow_source(corpus: Path, tmp_path: Path) -> DataSource:
    """The corpus with a tokenizer that several processes share."""
    words_tokenizer(tmp_path / "tokenizer")
    return DataSource(source=str(corpus), validation_share=0.2, tokenizer=str(tmp_path / "tokenizer"))


def _files(prepared: Prepared) -> dict[str, bytes]:
    return {name: (prepared.path / name).read_bytes() for name in prepared.files if name.endswith(".bin")}


def test_the_arrays_do_not_depend_on_the_number_of_processes(slow_source: DataSource, tmp_path: Path) -> None:
    one = prepare(slow_source, tmp_path / "one", workers=1, **SIZES)
    two = prepare(slow_source, tmp_path / "two", workers=2, **SIZES)
    assert one.digest == two.digest
    assert _files(one) == _files(two)
    assert len(_files(one)) > 6, "several shards of each split"
    whole = prepare(slow_source, tmp_path / "whole")
    for split in ("train", "validation"):
        assert np.array_equal(one.tokens(split), whole.tokens(split))


def test_a_cap_holds_across_units_and_processes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByteTokenizer, "worth_processes", True)
    capped = DataSource(source=str(corpus), validation_share=0.2, max_tokens=43_210)
    made = [prepare(capped, tmp_path / str(workers), workers=workers, **SIZES) for workers in (1, 2)]
    assert made[0].train_tokens == 43_210
    assert made[0].digest == made[1].digest


def test_killed_with_no_warning_it_goes_on_where_it_was(slow_source: DataSource, tmp_path: Path) -> None:
    """SIGKILL to the whole process group, twice, at different depths; then to the end, encoding no unit twice."""
    program = (
        "import sys, time, pathlib\n"
        "from trainer.data import DataSource, prepare, tokens\n"
        "encode = tokens.PretrainedTokenizer.encode\n"
        "def slowly(self, content):\n"
        "    time.sleep(0.01)\n"
        "    return encode(self, content)\n"
        "tokens.PretrainedTokenizer.encode = slowly\n"
        "source = DataSource(source=sys.argv[1], validation_share=0.2, tokenizer=sys.argv[2])\n"
        f"prepare(source, pathlib.Path(sys.argv[3]), workers=1, **{SIZES!r})\n"
    )
    root = tmp_path / "killed"
    arguments = [sys.executable, "-c", program, slow_source.source, slow_source.tokenizer, str(root)]
    journal = root / f".{slow_source.fingerprint()[:24]}" / JOURNAL
    done = 0
    for more in (2, 3):
        process = subprocess.Popen(arguments, start_new_session=True)
        deadline = time.monotonic() + 120
        while _lines(journal) < done + more:
            assert process.poll() is None, f"it ended by itself with {process.returncode}"
            assert time.monotonic() < deadline, f"{_lines(journal)} units after 120 s"
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = _lines(journal)
    # What a kill in the middle of a write leaves: half a line, and bytes that no line speaks of.
    with journal.open("ab") as file:
        file.write(b'{"unit": "ab')
    last = sorted(journal.parent.glob("train-*.bin"))[-1]
    with last.open("ab") as file:
        file.write(b"torn")
    assert find(slow_source, root) is None
    encoded: list[int] = []
    original = encoding._encode

    def counted(encoder: encoding.Encoder, unit: encoding.Unit) -> tuple[dict[str, bytes], dict[str, object]]:
        encoded.append(len(unit.contents))
        return original(encoder, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_encode", counted)
        resumed = prepare(slow_source, root, workers=1, **SIZES)
    alone = prepare(slow_source, tmp_path / "alone", workers=1, **SIZES)
    assert resumed.digest == alone.digest
    assert _files(resumed) == _files(alone)
    units = -(
        -sum((Path(slow_source.source) / name).stat().st_size for name in os.listdir(slow_source.source))
        // 8_000
    )
    assert 0 < len(encoded) <= units - done, "what was done is not done again"
    assert not (resumed.path / JOURNAL).exists()


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_a_source_that_changed_meanwhile_is_prepared_from_the_beginning(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for index in range(60):
        (folder / f"{index:02}.txt").write_text(f"text {index} " * 40)
    source = DataSource(source=str(folder), validation_share=0.3)
    aside = tmp_path / "data" / f".{source.fingerprint()[:24]}"
    writer = ShardWriter(aside)
    writer.commit(
        {"train": b"other", "validation": b"bytes"}, {"unit": "of another source", "documents": 3, "seen": {}}
    )
    writer.close()
    made = prepare(source, tmp_path / "data", unit_bytes=4000)
    assert made.digest == prepare(source, tmp_path / "fresh", unit_bytes=4000).digest


def test_a_process_that_dies_is_said(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ByteTokenizer, "worth_processes", True)
    monkeypatch.setattr(encoding, "_encode_here", _die)
    with pytest.raises(DataError, match="a process that prepares data was killed"):
        prepare(DataSource(source=str(corpus)), tmp_path / "data", workers=2, **SIZES)


def _die(unit: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_stretches_are_those_of_one_long_array(lengths: list[int], length: int, data: st.DataObject) -> None:
    import tempfile

    if sum(lengths) < length:
        return
    values = np.arange(sum(lengths), dtype=np.uint16)
    starts = np.array(data.draw(st.lists(st.integers(0, sum(lengths) - length), min_size=1, max_size=8)))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(len(lengths))]
        for path, part in zip(paths, np.split(values, np.cumsum(lengths)[:-1]), strict=True):
            path.write_bytes(part.tobytes())
        array = ShardedArray(paths, lengths, np.dtype(np.uint16))
        assert len(array) == len(values)
        assert np.array_equal(array.whole(), values)
        expected = values[starts[:, None] + np.arange(length)]
        assert np.array_equal(array.take(starts, length), expected)


def test_checksums_are_compared_once_and_again_when_files_changed(
    slow_source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(slow_source, tmp_path / "data", workers=1)
    reads: list[Path] = []
    from trainer.data import prepared as module

    original = module._sha256

    def counted(path: Path) -> str:
        reads.append(path)
        return original(path)

    monkeypatch.setattr(module, "_sha256", counted)
    open_prepared(made.path).verify_once()
    assert reads == [], "whoever wrote the files knows their checksums"
    (made.path / VERIFIED).unlink()
    module._verified_here.clear()
    open_prepared(made.path).verify_once()
    assert len(reads) == 2
    open_prepared(made.path).verify_once()
    module._verified_here.clear()
    open_prepared(made.path).verify_once()
    assert len(reads) == 2
    file = made.path / "train-00000.bin"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000\.bin was altered"):
        open_prepared(made.path).verify_once()


def test_equal_data_of_two_sources_are_kept_once(tmp_path: Path) -> None:
    sources = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(30):
            (tmp_path / name / f"{index}.txt").write_text(f"text {index} " * 20)
        sources.append(DataSource(source=str(tmp_path / name), validation_share=0.3))
    first, second = (prepare(source, tmp_path / "data") for source in sources)
    assert first == second
    assert json.loads((tmp_path / "data" / f"{sources[1].fingerprint()[:24]}.json").read_text()) == {
        "digest": first.digest
    }
