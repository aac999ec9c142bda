"""A state at a step, as a folder: safetensors files and a manifest that names the program's key and every checksum.

    weights.safetensors     name → float32
    optimizer.safetensors   kind/name → float32 (AdaFactor: v/…)
    masks.safetensors       name → packed bits, one a weight, first weight in the highest bit; empty while dense
    manifest.json           format, key, step, program, shapes of masks, SHA-256 and size of each file

Nothing of it depends on the device or on the way to the step, so a checkpoint IS the state that its key names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from trainer import storage
from trainer.errors import CheckpointError
from trainer.program import Program

#: Raised whenever the layout changes; older code refuses newer folders by this number.
FORMAT = 1

FILES = ("weights.safetensors", "optimizer.safetensors", "masks.safetensors")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class State:
    """All that a run is after `step` steps. weights, moments: float32; masks: boolean, empty while dense."""

    step: int
    weights: Arrays
    moments: Arrays
    masks: Arrays


def url_of(output: str, step: int) -> str:
    """Where the state at `step` goes below a segment's output."""
    return storage.join(output, f"step-{step}")


def save(url: str, program: Program, state: State) -> None:
    """Publish `state` at `url`, whole or not at all."""
    packed = {name: np.packbits(mask.reshape(-1)) for name, mask in state.masks.items()}
    files = {
        name: safetensors.numpy.save(arrays)
        for name, arrays in zip(FILES, (state.weights, state.moments, packed), strict=True)
    }
    manifest = {
        "format": FORMAT,
        "key": program.key_at(state.step),
        "step": state.step,
        "program": program.to_dict(),
        "masks": {name: list(mask.shape) for name, mask in state.masks.items()},
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        },
    }
    files[storage.MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
    storage.publish(url, files)


def load(url: str, program: Program, step: int | None = None) -> State:
    """The state at `url`, checked to be that of `program` (at `step`, where given) and unaltered.

    Raises CheckpointError that says which file is wrong and why.
    """
    listed = read_manifest(url)
    found = listed["step"]
    if step is not None and found != step:
        raise CheckpointError(f"{url} holds the state at step {found}, the one at step {step} is needed")
    if not 0 <= found <= program.steps or listed["key"] != program.key_at(found):
        raise CheckpointError(
            f"{url} was written by another program: its key at step {found} is {str(listed['key'])[:12]}…; "
            "shape, data, optimiser, schedule, pruning, seed and torch version must all agree up to that step"
        )
    weights, moments, packed = (read_arrays(url, name, listed["files"].get(name)) for name in FILES)
    masks = {}
    for name, shape in listed["masks"].items():
        count = int(np.prod(shape))
        if name not in packed or packed[name].size != packed_bytes(count):
            raise CheckpointError(f"{storage.join(url, FILES[2])} holds no mask of shape {shape} for {name}")
        masks[name] = np.unpackbits(packed[name], count=count).astype(bool).reshape(shape)
    return State(found, weights, moments, masks)


def latest(output: str, program: Program, *, after: int = 0) -> tuple[str, State] | None:
    """The newest intact state of `program` below `output` past step `after`; damaged ones are passed over."""
    steps = sorted(
        (int(name.removeprefix("step-")) for name in storage.names(output) if is_step(name)), reverse=True
    )
    for step in steps:
        if after < step <= program.steps:
            url = url_of(output, step)
            try:
                return url, load(url, program, step)
            except CheckpointError:
                continue
    return None


def packed_bytes(weights: int) -> int:
    """Bytes of the mask of so many weights: one bit each."""
    return -(-weights // 8)


def is_step(name: str) -> bool:
    """Whether a folder is named as `url_of` names states."""
    return name.startswith("step-") and name.removeprefix("step-").isdigit()


def read_manifest(url: str) -> dict[str, Any]:
    """The manifest of the folder at `url`, its entries checked for kind. Raises CheckpointError."""
    file = storage.join(url, storage.MANIFEST)
    try:
        manifest = json.loads(storage.read(url, storage.MANIFEST))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: {url} is no checkpoint, or was never finished") from None
    except ValueError:
        raise CheckpointError(f"{file} is torn: it is no valid JSON") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise CheckpointError(f"{file} is no checkpoint manifest: it states no format")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{file} has format {manifest['format']}, this version reads up to {FORMAT}: use a newer version"
        )
    for name, kind in (("step", int), ("key", str), ("files", dict), ("masks", dict)):
        if not isinstance(manifest.get(name), kind):
            raise CheckpointError(f"{file} was altered: its entry {name!r} is missing or of the wrong kind")
    return manifest


def read_arrays(url: str, name: str, expected: Any) -> Arrays:
    """The arrays of one file, checked against its entry in the manifest. Raises CheckpointError."""
    file = storage.join(url, name)
    if not isinstance(expected, dict):
        raise CheckpointError(f"{storage.join(url, storage.MANIFEST)} was altered: it does not list {name}")
    try:
        content = storage.read(url, name)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    if len(content) != expected.get("bytes"):
        raise CheckpointError(
            f"{file} is torn: {len(content)} bytes, the manifest says {expected.get('bytes')}"
        )
    if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
        raise CheckpointError(f"{file} was altered: its SHA-256 is not the manifest's")
    try:
        loaded: Arrays = safetensors.numpy.load(content)
    except SafetensorError as reason:
        raise CheckpointError(f"{file} is no safetensors file ({reason})") from None
    return loaded
