"""Weight files to the tensors of one model: wrappers, copies and prefixes peeled away."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autotok.errors import CheckpointError

from .weight_file import check_claims, read_claims, read_weight_file, shown

log = logging.getLogger(__name__)

AVERAGES = {
    "state_dict_ema": (), "model_ema": (), "model_state_dict_ema": (), "ema_state_dict": (),
    "ema_model": (), "ema": (), "teacher": ("student",), "target_encoder": ("encoder",),
}  # fmt: skip
"""Names of averaged weights; a teacher is one only beside the student it averages."""
WRAPPERS = (
    *AVERAGES, "model", "state_dict", "model_state_dict", "model_state", "module", "net",
    "encoder", "student",
)  # fmt: skip
# wrappers are peeled one by one: a dictionary that holds itself would go on for ever
MAX_DEPTH = 8
ANCHOR = re.compile(
    r"(?P<chain>(?:(?:module|_orig_mod|model|backbone|encoder|net|student|teacher|ema_model"
    r"|target_encoder)\.)*)"
    r"(?:cls_token$|pos_embed$|patch_embed(?:_super)?\.|blocks\.0\.)"
)
"""A name of some ViT's weights, after the prefixes that other code may put before it."""
SHARED = re.compile(r"(?:(?:module|_orig_mod|model|backbone)\.)+")
COUNTERS = ("n_averaged", "module.n_averaged")


@dataclass(frozen=True)
class Peeled:
    """The tensors of one model, and what was said and left on the way to them."""

    tensors: dict[str, Tensor]
    choices: tuple[str, ...]
    """One sentence each: which of several sets of weights was taken."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of one model in a .safetensors, .pth, .pt or .bin file, under their plain names.

    Averaged weights (EMA) are taken where a file has both, with a warning that says so.

    Raises:
        CheckpointError: the file is missing, too large, damaged, or not a weight file; or it holds
            several models and none is the obvious one.
    """
    path = Path(path)
    claims = read_claims(path)
    if claims is not None:
        check_claims(peeled(claims, path).tensors.items(), path)
    found = peeled(read_weight_file(path), path)
    check_claims(found.tensors.items(), path)
    for key, value in found.tensors.items():
        if value.is_meta:
            raise CheckpointError(
                f"checkpoint '{path}' has no values for {shown(key)}; it is on device 'meta'"
            )
    for choice in found.choices:
        log.warning("checkpoint '%s': %s", path, choice)
    return found.tensors


def peeled(data: Mapping[Any, object], origin: str | Path) -> Peeled:
    """The tensors of the one model that nested plain data holds.

    Raises:
        CheckpointError: there is none, it is nested too deep, or there are several.
    """
    choices: list[str] = []
    for _ in range(MAX_DEPTH):
        inner = _unwrapped(data, choices)
        if inner is None:
            break
        data = inner
    else:
        raise CheckpointError(
            f"checkpoint '{origin}' is nested deeper than {MAX_DEPTH} levels; save the model's"
            " state dict itself"
        )
    tensors = {str(k): v for k, v in data.items() if isinstance(v, Tensor) and k not in COUNTERS}
    if not tensors:
        keys = ", ".join(repr(str(key)[:40]) for key in list(data)[:5])
        raise CheckpointError(
            f"checkpoint '{origin}' holds no tensors"
            + (f" but {keys}" if keys else "")
            + "; expected a state dict in safetensors or torch format"
        )
    return Peeled(_without_prefixes(tensors, origin, choices), tuple(choices))


def _unwrapped(data: Mapping[Any, object], choices: list[str]) -> Mapping[Any, object] | None:
    """The dictionary of weights inside this one; None where this is it."""
    inside: dict[str, Mapping[Any, object]] = {}
    for key in WRAPPERS:
        value = data.get(key)
        if isinstance(value, Mapping) and value:
            inside[key] = value
    raw = [key for key in inside if key not in AVERAGES]
    for key, value in inside.items():
        partners = AVERAGES.get(key, ())
        if partners and not any(partner in inside for partner in partners):
            continue  # somebody else's teacher, unless it is all there is
        if key in AVERAGES and raw:
            choices.append(f"taking the averaged weights '{key}', not '{raw[0]}'")
        return value
    return next(iter(inside.values()), None)


def _without_prefixes(
    tensors: dict[str, Tensor], origin: str | Path, choices: list[str]
) -> dict[str, Tensor]:
    """The same tensors under the names they have in the model itself."""
    matches = [match for match in map(ANCHOR.match, tensors) if match]
    chains = list(dict.fromkeys(match["chain"] for match in matches))
    if not chains:
        shared = SHARED.match(next(iter(tensors)))
        chain = shared.group() if shared else ""
        if not all(key.startswith(chain) for key in tensors):
            return tensors
    elif len(chains) == 1:
        chain = chains[0]
    else:
        chain = _averaged(chains, origin)
        others = [other for other in chains if other != chain]
        choices.append(f"taking the averaged weights '{chain}*', not '{others[0]}*'")
        tensors = {k: v for k, v in tensors.items() if not k.startswith(tuple(others))}
    return _renamed(tensors, chain, origin)


def _averaged(chains: Iterable[str], origin: str | Path) -> str:
    """The one prefix of several that marks averaged weights."""
    chains = list(chains)
    words = {chain: set(chain.split(".")) for chain in chains}
    found = [c for c in chains if words[c] & {"teacher", "ema_model", "target_encoder"}]
    if len(found) == 1 and "" not in chains:
        return found[0]
    listed = ", ".join(repr(chain) if chain else "no prefix" for chain in chains[:4])
    raise CheckpointError(
        f"checkpoint '{origin}' holds several models, under {listed}; save the one to be loaded"
    )


def _renamed(tensors: dict[str, Tensor], chain: str, origin: str | Path) -> dict[str, Tensor]:
    """Names without `chain`, or without as many of its first words as they have."""
    words = chain.split(".")[:-1]
    prefixes = [".".join(words[:count]) + "." for count in range(len(words), 0, -1)]
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        prefix = next((p for p in prefixes if key.startswith(p)), "")
        plain = key[len(prefix) :]
        if plain in out:
            raise CheckpointError(
                f"checkpoint '{origin}' has two tensors for {shown(plain)}, with the prefix"
                f" '{chain}' and without; save one model"
            )
        if plain != "n_averaged":
            out[plain] = value
    return out
