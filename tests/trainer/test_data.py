"""Preparing data: once, whole or not at all, the same everywhere, and nothing held out is trained on."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.tokenizers import words_tokenizer
from trainer.data import DataSource, Prepared, documents, find, open_prepared, prepare, python_source
from trainer.data.batches import Batches
from trainer.data.order import windows_at
from trainer.data.tokens import ByteTokenizer, tokenizer_for
from trainer.errors import DataError
from trainer.program import DataStream


def _documents(prepared: Prepared, split: str) -> set[bytes]:
    ids = prepared.tokens(split)
    pieces = np.split(ids, np.flatnonzero(ids == prepared.eos) + 1)
    return {(piece[:-1] - 3).astype(np.uint8).tobytes() for piece in pieces if len(piece)}


def test_every_byte_arrives_and_no_document_is_on_both_sides(corpus: Path, prepared: Prepared) -> None:
    train, validation = _documents(prepared, "train"), _documents(prepared, "validation")
    assert train | validation == {file.read_bytes() for file in corpus.iterdir()}
    assert train
    assert validation
    assert not train & validation


def test_the_digest_depends_on_content_only(corpus: Path, prepared: Prepared, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    for file in corpus.iterdir():
        (elsewhere / file.name).write_bytes(file.read_bytes())
    (elsewhere / "zz_duplicate.py").write_bytes((corpus / "module_3.py").read_bytes())
    again = prepare(DataSource(source=str(elsewhere), validation_share=0.2), tmp_path / "data")
    assert again.digest == prepared.digest
    assert again.path != prepared.path


def test_what_is_there_is_found_and_what_changed_is_not(tmp_path: Path) -> None:
    folder, root = tmp_path / "texts", tmp_path / "data"
    folder.mkdir()
    for index in range(30):
        (folder / f"{index}.txt").write_text(f"text {index} " * 20)
    source = DataSource(source=str(folder), validation_share=0.3)
    assert find(source, root) is None
    made = prepare(source, root)
    assert find(source, root) == made
    before = os.stat(made.path / "train-00000.bin").st_mtime_ns
    assert prepare(source, root) == made
    assert os.stat(made.path / "train-00000.bin").st_mtime_ns == before
    (folder / "0.txt").write_text("another text")
    assert find(source, root) is None
    assert prepare(source, root).digest != made.digest


def test_hidden_files_are_none_of_a_folders_data(corpus: Path, tmp_path: Path) -> None:
    """Such as LACUNA_HOME below the very folder that is read: what is prepared there is no source of its own."""
    folder = tmp_path / "source"
    shutil.copytree(corpus, folder)
    plain = prepare(DataSource(source=str(folder), validation_share=0.2), tmp_path / "elsewhere")
    (folder / ".notes.txt").write_text("nothing to learn from")
    home = folder / ".lacuna" / "data"
    inside = prepare(DataSource(source=str(folder), validation_share=0.2), home)
    assert inside.digest == plain.digest
    assert prepare(DataSource(source=str(folder), validation_share=0.2), home) == inside


def test_a_cap_cuts_the_training_tokens_exactly(corpus: Path, tmp_path: Path) -> None:
    made = prepare(DataSource(source=str(corpus), validation_share=0.2, max_tokens=20_001), tmp_path)
    assert made.train_tokens == 20_001


def test_a_failure_half_way_leaves_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DataSource(source=str(corpus), validation_share=0.2)
    complete = documents.stream

    def broken(*arguments: object) -> Iterator[bytes]:
        yield from list(complete(*arguments))[:20]  # type: ignore[arg-type]
        raise OSError("the disk went away")

    monkeypatch.setattr(documents, "stream", broken)
    with pytest.raises(OSError, match="went away"):
        prepare(source, tmp_path)
    assert find(source, tmp_path) is None
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir() and entry.name != "cache"] == []


def test_two_at_once_end_with_one_result(corpus: Path, tmp_path: Path) -> None:
    source = DataSource(source=str(corpus), validation_share=0.2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: prepare(source, tmp_path), range(2))
    assert first == second
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir() and entry.name != "cache"] == [first.path]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "arrow"])
def test_tables_are_read_by_their_text_column(kind: str, tmp_path: Path) -> None:
    import datasets
    import pandas as pd

    texts = [f"row {index} " * 10 for index in range(60)]
    frame = pd.DataFrame({"body": texts, "other": range(60)})
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        frame.to_parquet(file)
    elif kind == "csv":
        frame.to_csv(file, index=False)
    elif kind == "arrow":
        # A folder, with files of json beside the table that are none of the data.
        datasets.Dataset.from_pandas(frame).save_to_disk(str(file))
    else:
        frame.to_json(file, orient="records", lines=True)
    source = DataSource(source=str(file), text_column="body", validation_share=0.2)
    made = prepare(source, tmp_path / "data")
    assert _documents(made, "train") | _documents(made, "validation") == {text.encode() for text in texts}
    with pytest.raises(DataError, match="no column 'text': text_column must be one of body, other"):
        prepare(DataSource(source=str(file), validation_share=0.2), tmp_path / "data")


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "arrow"])
def test_a_table_that_cannot_be_read_is_named(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{kind}"
    file.write_bytes(b'{"text": "whole"}\n{"text": \xff\n"a,b\n')
    with pytest.raises(DataError, match=rf"rows\.{kind} cannot be read: \w"):
        prepare(DataSource(source=str(file), validation_share=0.2), tmp_path / "data")


def test_damage_is_named(prepared: Prepared, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in prepared.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    array = copy / "train-00000.bin"
    content = bytearray(array.read_bytes())
    content[100] ^= 1
    array.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000\.bin was altered"):
        open_prepared(copy).verify()
    prepared.verify()
    array.write_bytes(content[:-2])
    with pytest.raises(DataError, match=r"train-00000\.bin has .* bytes, its manifest says"):
        open_prepared(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        open_prepared(copy)
    with pytest.raises(DataError, match="holds no prepared data"):
        open_prepared(tmp_path / "nowhere")


def test_a_hub_that_cannot_be_reached_is_one_error_with_the_offline_way(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.data import DataSource, prepare\n"
        "from trainer.errors import DataError\n"
        "try: prepare(DataSource(source='someone/something'), Path(sys.argv[1]))\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "'someone/something' could not be reached" in done.stdout
    assert "The offline way: save it as parquet, json or text files" in done.stdout
    assert not (tmp_path / "home").exists(), "nothing may be written outside the data folder"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "./missing"}, "no file or folder"),
        ({"source": "missing.parquet"}, "no file or folder"),
        ({"source": ""}, "source is empty"),
        ({"max_tokens": -1}, "0 for no limit"),
        ({"validation_share": 1.5}, "between 0 and 1"),
    ],
)
def test_a_source_that_cannot_be_is_refused(options: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        find(DataSource(**options), tmp_path)  # type: ignore[arg-type]


def test_the_python_corpus_leaves_out_what_an_environment_writes_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environment(name: str) -> tuple[Path, list[bytes]]:
        site = tmp_path / name / "site-packages"
        for path, text in {
            "package/module.py": "x = 1\n",
            "package/latin.py": "# caf\xe9\n",
            "package/__pycache__/module.py": "cached\n",
            "package/paths.py": f"prefix = {str(tmp_path / name)!r}\n",
            "__editable___thing_finder.py": "hook\n",
            "trainer/own.py": "ours\n",
            "package/trainer/kept.py": "not ours\n",
            "package/data.txt": "no source\n",
        }.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(text.encode("latin-1"))
        monkeypatch.setattr(python_source, "roots", lambda: [site])
        monkeypatch.setattr(sys, "prefix", str(tmp_path / name))
        return site, list(python_source.documents())

    _, first = environment("one")
    _, second = environment("two")
    assert first == second
    assert sorted(first) == [b"# caf\xe9\n", b"not ours\n", b"x = 1\n"]


def test_the_real_python_corpus_is_capped_quickly_and_deterministically(tmp_path: Path) -> None:
    source = DataSource(max_tokens=300_000, validation_share=0.1)
    first, second = prepare(source, tmp_path / "a"), prepare(source, tmp_path / "b")
    assert first.digest == second.digest
    assert first.train_tokens == 300_000
    assert find(DataSource(max_tokens=300_001, validation_share=0.1), tmp_path / "a") is None


def test_bytes_follow_byt5() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(b"\x00a\xff").tolist() == [3, 100, 258, 1]
    assert (tokenizer.eos, tokenizer.facts()["vocab_size"]) == (1, 384)
    assert tokenizer.sentinels[0] == 383
    assert len(tokenizer.sentinels) == 125


def test_batches_are_a_function_of_seed_and_index(prepared: Prepared) -> None:
    stream = DataStream(digest=prepared.digest, sequence_length=24, evaluation_batches=2)
    one, two = (Batches(stream, prepared, batch_size=4, seed=5) for _ in range(2))
    other = Batches(stream, prepared, batch_size=4, seed=6)
    for index in (7, 3, 7):
        assert all(
            np.array_equal(one.train(index)[name], two.train(index)[name]) for name in one.train(index)
        )
    assert not np.array_equal(one.train(3)["inputs"], other.train(3)["inputs"])
    assert np.array_equal(one.validation(1)["inputs"], other.validation(1)["inputs"])

    # Of several spans, unlike of one, the places are drawn.
    several = dataclasses.replace(stream, sequence_length=96)
    one, other = (Batches(several, prepared, batch_size=4, seed=seed) for seed in (5, 6))
    sentinels = [one.train(index)["inputs"] > 258 for index in (3, 7)]
    assert not np.array_equal(*sentinels), "each batch hides other places"
    assert np.array_equal(one.validation(1)["inputs"], other.validation(1)["inputs"])


def test_data_that_do_not_suffice_are_refused(prepared: Prepared) -> None:
    def batches(**options: int) -> Batches:
        stream = DataStream(digest=prepared.digest, **{"sequence_length": 24, **options})  # type: ignore[arg-type]
        return Batches(stream, prepared, batch_size=4, seed=0)

    with pytest.raises(DataError, match=r"validation data in .* hold \d+ stretches of 26, 40000 are needed"):
        batches(evaluation_batches=10_000)
    with pytest.raises(DataError, match="needs 278 sentinels"):
        batches(sequence_length=5000)
    with pytest.raises(DataError, match="the program was planned on 0000"):
        Batches(DataStream(digest="0" * 64), prepared, batch_size=4, seed=0)


def test_a_transformers_tokenizer_in_a_folder_is_used(corpus: Path, tmp_path: Path) -> None:
    words = words_tokenizer(tmp_path / "tokenizer")
    source = DataSource(source=str(corpus), validation_share=0.2, tokenizer=str(tmp_path / "tokenizer"))
    prepared = prepare(source, tmp_path / "data")
    assert prepared.vocab_size == len(words) + 4
    assert prepared.eos == 1
    assert len(prepared.sentinels) == 4
    assert prepared.mask == prepared.sentinels[0]
    assert set(np.unique(prepared.tokens("train"))) <= set(range(len(words)))
    # Six words a line, sixty lines, and the end.
    assert 361 in np.diff(np.flatnonzero(prepared.tokens("train") == 1))


def test_a_tokenizer_counts_by_its_content_not_by_its_name(corpus: Path, tmp_path: Path) -> None:
    digests = []
    for name, options in (("a", {}), ("b", {}), ("c", {"mask_token": "<extra_id_1>"})):
        words_tokenizer(tmp_path / name, **options)
        source = DataSource(source=str(corpus), validation_share=0.2, tokenizer=str(tmp_path / name))
        digests.append(prepare(source, tmp_path / "data").digest)
    assert digests[0] == digests[1]
    file = tmp_path / "c" / "tokenizer.json"
    file.write_text(file.read_text().replace('"name_7"', '"name_seven"'))
    assert tokenizer_for(str(tmp_path / "c"), tmp_path).facts()["tokenizer"] not in digests[0]


def test_text_that_spells_a_special_token_is_text(tmp_path: Path) -> None:
    words_tokenizer(tmp_path)
    tokenizer = tokenizer_for(str(tmp_path), tmp_path)
    ids = tokenizer.encode(b"def </s> <extra_id_0> return").tolist()
    assert ids[-1] == tokenizer.eos
    assert not set(ids[:-1]) & {tokenizer.eos, *tokenizer.sentinels}, "no document ends but at its end"


def test_a_tokenizers_folder_runs_no_code_and_unpickles_nothing(tmp_path: Path) -> None:
    words_tokenizer(tmp_path)
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')"
    (tmp_path / "evil.py").write_text(f"{trap}\nfrom transformers import PreTrainedTokenizerFast as Evil\n")
    for name in ("vocab.pkl", "pytorch_model.bin", "spiece.model.pkl"):
        (tmp_path / name).write_bytes(f"cbuiltins\nexec\n(S{trap!r}\ntR.".encode())
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}))
    with suppress(DataError):
        tokenizer_for(str(tmp_path), tmp_path / "cache").encode(b"def return")
    assert not (tmp_path / "sprung").exists()


def test_a_packed_epoch_is_the_documents_one_behind_the_other(prepared: Prepared) -> None:
    """Every token is an input once and the target of the one before it; between documents stands one end token."""
    stream = DataStream(digest=prepared.digest, objective="causal", sequence_length=24, evaluation_batches=1)
    batches = Batches(stream, prepared, batch_size=1, seed=3)
    windows = int(batches.epoch_batches)
    places = windows_at(3, 0, 0, windows, windows)
    found = {int(place): batches.train(index) for index, place in enumerate(places)}
    inputs = np.concatenate([found[place]["inputs"][0] for place in range(windows)])
    targets = np.concatenate([found[place]["targets"][0] for place in range(windows)])
    tokens = prepared.tokens("train")
    assert np.array_equal(inputs, tokens[: 24 * windows])
    assert np.array_equal(targets, tokens[1 : 24 * windows + 1])
    assert len(tokens) - 1 - 24 < 24 * windows <= len(tokens) - 1
    borders = np.flatnonzero(inputs == prepared.eos)
    assert len(borders) > 10
    for border in borders[:-1]:
        assert targets[border] != prepared.eos, "no empty document"
        assert targets[border] == inputs[border + 1], "the end token is where the next document is expected"


def test_a_tokenizer_that_cannot_be_loaded_is_one_error_with_the_offline_way(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    source = DataSource(source=str(tmp_path / "text.txt"), tokenizer=str(tmp_path / "empty"))
    with pytest.raises(
        DataError, match=r"could not be loaded: give a directory that holds it \(the offline way\)"
    ):
        prepare(source, tmp_path / "data")
