"""Settings from the environment and from mounted files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.errors import LedgerError
from ledger.settings import Settings


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://lacuna:secret@db/lacuna\n")
    (tmp_path / "token").write_text("sixteen-letters-x")
    settings = Settings.from_environment(
        {"LACUNA_DATABASE_URL_FILE": f"{tmp_path}/url", "LACUNA_API_TOKEN_FILE": f"{tmp_path}/token"}
    )
    assert settings.database_url == "postgresql://lacuna:secret@db/lacuna"
    assert settings.api_token == "sixteen-letters-x"


def test_the_variable_itself_comes_first(tmp_path: Path) -> None:
    environment = {"LACUNA_API_TOKEN": "spoken", "LACUNA_API_TOKEN_FILE": str(tmp_path / "none")}
    assert Settings.from_environment(environment).api_token == "spoken"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        LedgerError, match=r"LACUNA_DATABASE_URL_FILE names .*/none, which cannot be read: No such"
    ):
        Settings.from_environment({"LACUNA_DATABASE_URL_FILE": str(tmp_path / "none")})


def test_the_workers_torch_may_be_stated_by_device() -> None:
    settings = Settings.from_environment({"LACUNA_TORCH_VERSIONS": "2.13.1, xla=2.9"})
    assert [settings.torch_version(device) for device in ("cpu", "xla")] == ["2.13", "2.9"]
    assert Settings.from_environment({"LACUNA_TORCH_VERSIONS": "xla=2.9"}).torch_version("cpu") is None
    assert Settings.from_environment({}).torch_version("cpu") is None
    with pytest.raises(LedgerError, match=r"says 'newest': write a version"):
        Settings.from_environment({"LACUNA_TORCH_VERSIONS": "newest"}).torch_version("cpu")
