"""`load_official`: the authors' own parameters of a method, put where they belong."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from autotok.errors import CheckpointError
from autotok.methods.base import TokenReducer
from autotok.methods.learning import Learning
from autotok.methods.official_weights import OfficialWeights

from .model import CompressedViT


@torch.no_grad()
def load_official(
    model: CompressedViT, tensors: Mapping[str, Tensor], *, origin: str = "checkpoint"
) -> list[str]:
    """Names of the tensors that were taken: the method's parameters by their authors' names.

    Everything else (such as the backbone's weights in the same file) is passed over.

    Raises:
        CheckpointError: a parameter of the method that inference needs is missing, or has another
            shape.
    """
    reducers = [r for r in model.reducers.values() if isinstance(r, TokenReducer)]
    filled: set[tuple[int, str]] = set()
    taken = []
    for key, values in tensors.items():
        place = _place(reducers, key)
        if place is None or place[0] >= len(reducers):
            continue
        if place[0] < 0 and values.dim():  # one row for each reduction layer
            parts = list(enumerate(values.unbind(0)))[: len(reducers)]
        else:
            parts = [(place[0], values)]
        for index, part in parts:
            own = dict(reducers[index].named_parameters()).get(place[1])
            if own is None or index < 0:
                continue
            given = cast(OfficialWeights, reducers[index]).from_official(place[1], part)
            what = None
            if given.shape != own.shape:
                what = f"has shape {tuple(values.shape)}, but method '{model.config.method}' needs"
                what += f" {tuple(own.shape)} here; give the weights of this backbone and schedule"
            elif bool(torch.isnan(given.float()).any()):
                what = "holds values that are not numbers; fetch the file again"
            if what:
                raise CheckpointError(f"'{key}' of '{origin}' {what}")
            own.copy_(given)
            filled.add((index, place[1]))
            taken.append(key)
    _check_complete(model, reducers, filled, origin)
    if reducers and not taken:
        raise CheckpointError(
            f"'{origin}' has no parameters of method '{model.config.method}'"
            + (
                ""
                if any(True for r in reducers for _ in r.parameters())
                else ", which has none of its own"
            )
            + "; leave weights out, and give a trained backbone where the method needs one"
        )
    return list(dict.fromkeys(taken))


def _place(reducers: list[TokenReducer], key: str) -> tuple[int, str] | None:
    """(number of the reduction layer, our name) of an authors' parameter; None if not ours."""
    first = next(iter(reducers), None)
    if not isinstance(first, OfficialWeights):
        return None
    place = first.official_name(key)
    if place is None or not first.official_by_block:
        return place
    at = {reducer.site.layer: number for number, reducer in enumerate(reducers)}
    return (at[place[0]], place[1]) if place[0] in at else None


def _check_complete(
    model: CompressedViT, reducers: list[TokenReducer], filled: set[tuple[int, str]], origin: str
) -> None:
    """Raise unless every parameter that inference needs was filled."""
    missing = [
        f"layer {reducer.site.layer}: {name}"
        for index, reducer in enumerate(reducers)
        for name in _needed(reducer)
        if (index, name) not in filled
    ]
    if missing:
        raise CheckpointError(
            f"'{origin}' has no parameters of method '{model.config.method}' for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; give the authors' checkpoint of this method and schedule"
        )


def _needed(reducer: TokenReducer) -> list[str]:
    """Names of the parameters that are there without training."""
    bare = copy.deepcopy(reducer)
    if isinstance(bare, Learning):
        bare.deploy()
    return [name for name, _ in bare.named_parameters()]
