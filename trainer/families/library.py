"""A `transformers` model's configuration as dimensions of ours. No torch: plans read config.json themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ConfigError(ValueError):
    """A configuration of another kind of model, or of one that computes something else than ours."""


def check_config(config: Mapping[str, Any], model_type: str, needs: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises ConfigError unless it is of that type and each key has the first value of its pair; the second is what
    the library takes where the file does not say."""
    found = config.get("model_type")
    if found != model_type:
        raise ConfigError(f"model_type is {found!r}, this family takes {model_type!r}")
    wrong = [
        f"{key} is {config.get(key, default)!r}, not {wanted!r}"
        for key, (wanted, default) in needs.items()
        if config.get(key, default) != wanted
    ]
    if wrong:
        raise ConfigError(f"it computes something else than this family: {'; '.join(wrong)}")


def dims_of(config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, int]:
    """Dimension → whole number, by each one's key in the configuration. Raises ConfigError where one is missing."""
    found = {}
    for name, key in keys.items():
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"config.json has {key}: {value!r}, a whole number is needed")
        found[name] = value
    return found


def as_it_is(name: str, weight: NDArray[Any], config: Mapping[str, Any]) -> NDArray[Any]:
    """A weight that both have alike."""
    return weight
