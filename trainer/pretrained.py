"""Where a run may start from: a dense checkpoint of ours, or a `transformers` checkpoint folder with safetensors.

What a key holds is the digest of the weights, never where they lay. Nothing is ever unpickled and no code of a
checkpoint is run. No torch on the way in: plans read configurations and hash files; only `load` brings weights.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from trainer import checkpoint, families, storage
from trainer.errors import PretrainedError
from trainer.families.library import ConfigError
from trainer.program import Start, key_of

#: How `transformers` names a single file of weights, and the list of several.
_SINGLE, _LISTED = "model.safetensors", "model.safetensors.index.json"

_WEIGHTS = checkpoint.FILES[0]


@dataclass(frozen=True)
class Pretrained:
    """Weights that can be started from. dims: the model's, as `Program.shape` has them; ours: written by us."""

    url: str
    family: str
    dims: dict[str, int]
    ours: bool


def inspect(url: str, family: str) -> Pretrained:
    """What lies at `url`: an address of ours (any fsspec URL), or a local folder of `transformers`.

    Reads configurations only. Raises PretrainedError on what is not there, of another family, pruned, or pickled.
    """
    place = _resolved(url)
    names = storage.names(place)
    if not names:
        raise PretrainedError(f"there is no checkpoint at {url}: give a folder that exists")
    if storage.MANIFEST in names:
        return _ours(place, family)
    if "config.json" not in names:
        raise PretrainedError(
            f"{url} holds neither {storage.MANIFEST} (a checkpoint of ours) nor config.json (one of transformers)"
        )
    _weight_files(place, names)
    try:
        config = _json(place, "config.json")
        return Pretrained(place, family, families.rules(family).from_config(config), ours=False)
    except ConfigError as reason:
        raise PretrainedError(f"{url} cannot start a {family}: {reason}") from None


def start_at(found: Pretrained) -> Start:
    """The start of a program: the digest of the weights, and where they lay. Hashes the files of `transformers`."""
    if found.ours:
        files = [checkpoint.read_manifest(found.url)["files"][_WEIGHTS]["sha256"]]
        return Start(digest=key_of({"files": files}), url=found.url)
    files = sorted(_sha256(*identity) for identity in _identities(found.url))
    # T5 of before v1.1 scales what goes into its logits; that is folded into their weights.
    scaled = _json(found.url, "config.json").get("scale_decoder_outputs")
    return Start(digest=key_of({"files": files, "scaled": scaled}), url=found.url)


def load(start: Start, family: str, dims: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Name → float32 weights, all that the family's network of these dimensions has.

    Raises PretrainedError where they are gone, have changed since the plan was made, or do not fit.
    """
    found = inspect(start.url, family)
    if (now := start_at(found).digest) != start.digest:
        raise PretrainedError(
            f"the weights at {start.url} have changed since the plan was made (digest {now[:12]}, planned "
            f"{start.digest[:12]}): bring the old ones back, or submit the sweep under another name"
        )
    if found.dims != dict(dims):
        differing = [f"{name} {found.dims.get(name)}, not {size}" for name, size in dims.items()]
        raise PretrainedError(f"the weights at {start.url} are of another shape: {', '.join(differing)}")
    if found.ours:
        entry = checkpoint.read_manifest(found.url)["files"][_WEIGHTS]
        return dict(checkpoint.read_arrays(found.url, _WEIGHTS, entry))
    from trainer.models.pretrained import read

    return read(found.url, family, dims)


def _ours(url: str, family: str) -> Pretrained:
    manifest = checkpoint.read_manifest(url)
    program = manifest.get("program") or {}
    if program.get("family") != family:
        raise PretrainedError(f"{url} holds a {program.get('family')}, not a {family}")
    if manifest["masks"]:
        raise PretrainedError(
            f"{url} is pruned already ({len(manifest['masks'])} masks): start from a dense checkpoint"
        )
    if not isinstance(manifest["files"].get(_WEIGHTS), dict):
        raise PretrainedError(
            f"{storage.join(url, storage.MANIFEST)} was altered: it does not list {_WEIGHTS}"
        )
    return Pretrained(url, family, dict(program["shape"]), ours=True)


def _weight_files(url: str, names: list[str]) -> list[str]:
    if _LISTED in names:
        listed = sorted(set(_json(url, _LISTED).get("weight_map", {}).values()))
        # Names come from a file that anyone may have written: they stay inside the folder.
        bad = [name for name in listed if not isinstance(name, str) or Path(name).name != name]
        if bad:
            raise PretrainedError(f"{storage.join(url, _LISTED)} names files outside its folder: {bad[0]!r}")
        missing = [name for name in listed if name not in names]
        if missing or not listed:
            what = ", ".join(missing) or "no file at all"
            raise PretrainedError(f"{url} is not whole: {_LISTED} lists {what}, which is not there")
        return listed
    if _SINGLE in names:
        return [_SINGLE]
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))]
    if pickled:
        raise PretrainedError(
            f"{url} has its weights in {pickled[0]} only, which can run code when it is read: "
            "save it again with save_pretrained(..., safe_serialization=True)"
        )
    raise PretrainedError(f"{url} holds no {_SINGLE} and no {_LISTED}")


def _identities(url: str) -> list[tuple[str, int, int]]:
    """Path, bytes and time of change of each file of weights: as long as they stay, so does the digest."""
    paths = [Path(url, name) for name in _weight_files(url, storage.names(url))]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


@functools.lru_cache(maxsize=256)
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(url: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(storage.read(url, name))
    except ValueError:
        raise PretrainedError(f"{storage.join(url, name)} is no valid JSON") from None
    if not isinstance(value, dict):
        raise PretrainedError(f"{storage.join(url, name)} is no mapping")
    return value


def _resolved(url: str) -> str:
    if "://" in url:
        return url.removeprefix("file://")
    return str(Path(url).expanduser().resolve())
