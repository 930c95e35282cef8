"""A site and tokens small enough to reduce by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from autotok.config import Primitive
from autotok.methods import Site, TokenReducer, get_method
from autotok.testing import synthetic_facts
from autotok.tokens import Needs, Taps, Tokens


def reducer(
    name: str,
    *,
    entering: int,
    keep: int,
    layer: int = 1,
    num_prefix: int = 1,
    options: dict[str, Primitive] | None = None,
    needs: Needs | None = None,
) -> TokenReducer:
    """A method in layer `layer` of 6."""
    method = get_method(name)
    facts = synthetic_facts(num_prefix)
    given = method.resolve_options(options or {})
    made = method(Site(layer, entering, keep, facts), given).eval()
    made.needs = method.resolve_needs(facts, given) if needs is None else needs
    return made


def tokens(patches: Tensor, *, num_prefix: int = 1) -> Tokens:
    """One image of patches (n, C) behind prefix tokens of -1."""
    prefix = torch.full((num_prefix, patches.shape[1]), -1.0, dtype=patches.dtype)
    return Tokens(torch.cat([prefix, patches]).unsqueeze(0), num_prefix, (1, patches.shape[0]))


def keys(directions: Tensor, *, num_prefix: int = 1) -> Taps:
    """One head whose keys point where `directions` (n, D) say."""
    prefix = torch.ones(num_prefix, directions.shape[1])
    return Taps({"keys": torch.cat([prefix, directions])[None, None]})


def angles(*degrees: float) -> Tensor:
    """(n, 2) unit vectors."""
    radians = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def attended(name: str, *heads: list[float]) -> Taps:
    """Attention each of N tokens receives, per head, under the tap `name`."""
    return Taps({name: torch.tensor([heads])})
