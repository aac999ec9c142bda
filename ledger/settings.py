"""Every environment variable Lacuna reads, in one place. All start with `LACUNA_`.

Secrets may lie in files, as a cluster mounts them: `LACUNA_DATABASE_URL_FILE` and `LACUNA_API_TOKEN_FILE` name a file
that holds the value. An environment is shown in many places, a mounted file in none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import LedgerError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where things are. Immutable: read once at the edge and passed inward."""

    home: Path
    """LACUNA_HOME: embedded Postgres, prepared data, checkpoints, logs. Default `~/.lacuna`."""

    database_url: str | None = None
    """LACUNA_DATABASE_URL: any Postgres (`postgresql://user:password@host/name`); unset: the embedded one."""

    tracking_uri: str | None = None
    """LACUNA_TRACKING_URI: an MLflow server or store; unset: a database `mlflow` on the ledger's Postgres."""

    storage_url: str | None = None
    """LACUNA_STORAGE_URL: checkpoints (a path, `gs://…`, `s3://…`); unset: `HOME/storage`."""

    api_token: str | None = None
    """LACUNA_API_TOKEN: bearer token that the service asks for and the command sends; unset: loopback only."""

    pools: Path | None = None
    """LACUNA_POOLS: a YAML file that declares the node pools; unset: `HOME/pools.yaml` if it is there."""

    allowed_sources: str | None = None
    """LACUNA_ALLOWED_SOURCES: what specs that come over REST from elsewhere may name: folders, beginnings of addresses,
    hub ids with `*`, separated by commas; unset: hub ids, built-in sources and `HOME/sources`."""

    api_url: str | None = None
    """LACUNA_API_URL: a service that the command asks instead of this machine's ledger."""

    torch_versions: str | None = None
    """LACUNA_TORCH_VERSIONS: the workers' torch, where it is not the one installed here: `2.13`, or by device
    `2.13,xla=2.9`. It is part of every key; unset: the version installed here."""

    part: str | None = None
    """LACUNA_PART: the part of the system that an image holds: service, controller or trainer; unset: all of it."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings of this process; empty variables count as unset."""

        def value(name: str) -> str | None:
            return environment.get(f"LACUNA_{name}") or None

        def secret(name: str) -> str | None:
            file = value(f"{name}_FILE")
            if value(name) is not None or file is None:
                return value(name)
            try:
                return Path(file).read_text().strip() or None
            except OSError as error:
                raise LedgerError(
                    f"LACUNA_{name}_FILE names {file}, which cannot be read: {error.strerror}"
                ) from None

        home = Path(value("HOME") or "~/.lacuna").expanduser().absolute()
        pools = value("POOLS")
        return cls(
            home=home,
            database_url=secret("DATABASE_URL"),
            tracking_uri=value("TRACKING_URI"),
            storage_url=value("STORAGE_URL"),
            api_token=secret("API_TOKEN"),
            pools=Path(pools).expanduser().absolute() if pools else None,
            api_url=value("API_URL"),
            allowed_sources=value("ALLOWED_SOURCES"),
            torch_versions=value("TORCH_VERSIONS"),
            part=value("PART"),
        )

    @property
    def storage(self) -> str:
        """Root URL of checkpoints, without a trailing slash."""
        return (self.storage_url or str(self.home / "storage")).rstrip("/")

    def torch_version(self, device: str) -> str | None:
        """major.minor of the torch that trains on `device` (cpu, cuda, xla), as the operator states it."""
        stated: dict[str, str] = {}
        for part in (self.torch_versions or "").split(","):
            name, _, version = part.strip().rpartition("=")
            if version and not re.fullmatch(r"\d+\.\d+(\..*)?", version):
                raise LedgerError(
                    f"LACUNA_TORCH_VERSIONS says {part.strip()!r}: write a version such as 2.13, or xla=2.9"
                )
            stated[name] = ".".join(version.split(".")[:2])
        return stated.get(device) or stated.get("") or None

    @property
    def data(self) -> Path:
        """Root of prepared data."""
        return self.home / "data"

    @property
    def logs(self) -> Path:
        """Root of log files."""
        return self.home / "logs"

    @property
    def library_environment(self) -> dict[str, str]:
        """What keeps libraries from writing to the user's home directory instead of LACUNA_HOME."""
        return {"MPLCONFIGDIR": str(self.home / "cache" / "matplotlib")}
