"""Weights of a `transformers` checkpoint under the names of our networks; the library reads and renames them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from trainer import families
from trainer.errors import PretrainedError


def read(path: str, family: str, dims: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Name → float32 weights of the folder at `path`. Raises PretrainedError on missing or misshapen tensors."""
    module = families.rules(family).build(dims, z_loss=0.0).module
    try:
        theirs, report = type(module).from_pretrained(
            path,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as reason:
        raise PretrainedError(f"the weights at {path} cannot be read: {reason}") from None
    for name, has, needed in sorted(report["mismatched_keys"]):
        raise PretrainedError(f"{path} has {name} of shape {tuple(has)}, {tuple(needed)} is needed")
    if missing := sorted(report["missing_keys"]):
        raise PretrainedError(f"{path} lacks {len(missing)} tensors of a {family}, such as {missing[0]}")
    config = theirs.config.to_dict()
    found = dict(theirs.named_parameters(remove_duplicate=False))
    adapted = families.rules(family).adapted
    weights = {}
    for name, parameter in module.named_parameters():
        if name not in found:
            raise PretrainedError(f"{path} lacks {name}")
        weights[name] = adapted(name, found[name].detach().numpy(), config)
        if weights[name].shape != tuple(parameter.shape):
            raise PretrainedError(
                f"{path} has {name} of shape {weights[name].shape}, {tuple(parameter.shape)} is needed"
            )
    return weights
