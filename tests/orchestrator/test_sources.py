"""What a spec from elsewhere may name: what the operator allowed, in whatever field it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.spec.document import read
from orchestrator.spec.sources import AllowedSources

REFUSED = [
    "/etc/passwd",
    "../x",
    "..",
    "~/.ssh/id_rsa",
    "~",
    "./x",
    "a/../../etc",
    "a/b/c",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "gs://other/x",
    "s3://bucket",
    "\\\\host\\share",
    "C:\\x",
]


def refused(spec: dict[str, Any], setting: str | None, home: Path) -> list[str]:
    """The paths of a spec that are refused."""
    allowed = AllowedSources.of(setting, home)
    return [problem.path for problem in allowed.problems(read(yaml.safe_dump(spec)))]


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize(
    "place",
    [
        "data.source",
        "data.tokenizer",
        "model.start_from",
        "data.then[1].source",
        "grid.start_from[0]",
        "training.new",
    ],
)
def test_a_path_or_an_address_is_refused_in_every_field(tmp_path: Path, text: str, place: str) -> None:
    spec: dict[str, Any] = {
        "data.source": {"data": {"source": text}},
        "data.tokenizer": {"data": {"tokenizer": text}},
        "model.start_from": {"model": {"start_from": text}},
        "data.then[1].source": {"data": {"then": [{"source": "digits"}, {"source": text}]}},
        "grid.start_from[0]": {"grid": {"start_from": [text]}},
        "training.new": {"training": {"new": text}},
    }[place]
    assert refused(spec, None, tmp_path) == [place]


def test_hub_ids_words_and_the_folder_for_sources_are_allowed_by_default(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    spec = {
        "name": "a/b/c",
        "model": {"family": "t5", "start_from": "google/t5-v1_1-base", "shape_rule": "linear"},
        "data": {"source": "allenai/c4", "tokenizer": "byte", "revision": "refs/convert/parquet"},
        "grid": {"pattern": ["2:4", "block:16/16/1"]},
    }
    assert refused(spec, None, tmp_path) == []
    spec["data"]["source"] = str(tmp_path / "sources" / "mine.jsonl")  # type: ignore[index]
    assert refused(spec, None, tmp_path) == []


def test_a_setting_allows_what_it_lists_and_nothing_else(tmp_path: Path) -> None:
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    setting = f"allenai/*, gs://bucket/text, {corpora}"
    allowed = ["allenai/c4", "gs://bucket/text/a.jsonl", str(corpora / "a"), "byte"]
    others = [
        *(
            "google/t5",
            "python-source",
            "gs://bucket/texts",
            "gs://bucket/text/../x",
            "gs://bucket/text/%2e%2e/x",
        ),
        *(str(tmp_path), str(corpora / ".." / "x"), f"{corpora}-of-others"),
    ]
    for text in allowed:
        assert refused({"data": {"source": text}}, setting, tmp_path) == [], text
    for text in others:
        assert refused({"data": {"source": text}}, setting, tmp_path) == ["data.source"], text


def test_a_link_out_of_an_allowed_folder_is_followed_before_it_is_judged(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "out").symlink_to("/etc")
    assert refused({"data": {"source": str(tmp_path / "sources" / "out" / "passwd")}}, None, tmp_path)


def test_a_name_that_is_a_file_here_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `transformers` and `datasets` would open it rather than ask the hub.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert refused({"data": {"tokenizer": "gpt2"}}, None, tmp_path / "home") == ["data.tokenizer"]
    assert refused({"model": {"family": "gpt2"}}, None, tmp_path / "home") == []
