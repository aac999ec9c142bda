"""What several tests of this folder need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrator.texts import SMALL


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A spec on a corpus of its own, so that preparing it takes no time."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index in range(60):
        (corpus / f"{index}.txt").write_text(
            f"{index} " + "the quick brown fox jumps over the lazy dog. " * 40
        )
    return SMALL.replace("python-source, max_tokens: 1e6", f"{corpus}, validation_share: 0.2")
