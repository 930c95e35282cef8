"""What may differ in structure, as part of a search space, and how it is made smaller.

`Subnets` is what a space asks of it; `Structure` are the subnets of a supernet; what pruning leaves
of any other ViT is `pruned_structure`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from autotok.config import Primitive, SubnetSpec
from autotok.facts import BackboneFacts

Asked = Callable[[str, tuple[Primitive, ...]], Primitive]
"""Asks one question, by name and choices, and gives its answer."""
PREFIX = "subnet."
"""Of the names of all questions about structure."""


class Subnets(Protocol):
    """The structures of one model, each a value that a configuration names as its subnet."""

    @property
    def default(self) -> Any:
        """The one that a configuration without a subnet means."""
        ...

    def ask(self, ask: Asked) -> None:
        """Ask for a structure."""
        ...

    def subnet(self, params: Mapping[str, Primitive]) -> Any:
        """The structure that a proposal asks for."""
        ...

    def params(self, subnet: Any) -> dict[str, Primitive]:
        """The inverse of `subnet`."""
        ...

    def canonical(self, subnet: Any) -> Any:
        """None for the default, so that a configuration has one name only."""
        ...

    def facts(self, subnet: Any) -> BackboneFacts:
        """Facts of a structure; None is the default."""
        ...

    def shrunk(self, subnet: Any) -> list[Any]:
        """The structure, then ever smaller ones down to the smallest, cheaper at each step."""
        ...


@dataclass(frozen=True)
class Structure:
    """What may differ between subnets; every choice is sorted, smallest first."""

    embed_choices: tuple[int, ...]
    depth_choices: tuple[int, ...]
    heads_choices: tuple[int, ...]
    mlp_ratio_choices: tuple[float, ...]
    default: SubnetSpec
    """The subnet a configuration without one means."""
    facts_of: Callable[[SubnetSpec], BackboneFacts] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("embed_choices", "depth_choices", "heads_choices", "mlp_ratio_choices"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))

    def ask(self, ask: Asked) -> None:
        """Ask for a subnet: width and depth, then every layer's heads and MLP ratio."""
        ask("subnet.embed_dim", self.embed_choices)
        depth = int(ask("subnet.depth", self.depth_choices))
        for name, choices in self.questions(depth):
            ask(name, choices)

    def questions(self, depth: int) -> Iterator[tuple[str, tuple[Primitive, ...]]]:
        """Parameter names with their choices, for a subnet of this depth."""
        for layer in range(depth):
            yield f"subnet.heads.{layer}", self.heads_choices
        for layer in range(depth):
            yield f"subnet.mlp_ratio.{layer}", self.mlp_ratio_choices

    def subnet(self, params: Mapping[str, Primitive]) -> SubnetSpec:
        """The subnet that a proposal asks for."""
        layers = range(int(params["subnet.depth"]))
        return SubnetSpec(
            int(params["subnet.embed_dim"]),
            tuple(int(params[f"subnet.heads.{i}"]) for i in layers),
            tuple(float(params[f"subnet.mlp_ratio.{i}"]) for i in layers),
        )

    def params(self, subnet: SubnetSpec) -> dict[str, Primitive]:
        """The inverse of `subnet`."""
        found: dict[str, Primitive] = {
            "subnet.embed_dim": subnet.embed_dim,
            "subnet.depth": subnet.depth,
        }
        for layer in range(subnet.depth):
            found[f"subnet.heads.{layer}"] = subnet.heads[layer]
            found[f"subnet.mlp_ratio.{layer}"] = subnet.mlp_ratios[layer]
        return found

    def canonical(self, subnet: SubnetSpec | None) -> SubnetSpec | None:
        """None for the default, so that a configuration has one name only."""
        return None if subnet == self.default else subnet

    def facts(self, subnet: SubnetSpec | None) -> BackboneFacts:
        """Facts of a subnet; None is the default."""
        return self.facts_of(subnet or self.default)

    def shrunk(self, subnet: SubnetSpec) -> list[SubnetSpec]:
        """The subnet, then ever smaller ones down to the smallest, one choice less at each step.

        MLP ratios and heads go first, layer by layer from the last, then depth and width, round
        after round: the proportions of the proposal survive as long as they can.
        """
        path = [subnet]
        while True:
            smaller = list(self._round(path[-1]))
            if not smaller:
                return path
            path.extend(smaller)

    def _round(self, subnet: SubnetSpec) -> Iterator[SubnetSpec]:
        """Every choice one step lower, one at a time."""
        for layer in reversed(range(subnet.depth)):
            ratio = _lower(self.mlp_ratio_choices, subnet.mlp_ratios[layer])
            if ratio is not None:
                ratios = _with(subnet.mlp_ratios, layer, ratio)
                subnet = dataclasses.replace(subnet, mlp_ratios=ratios)
                yield subnet
        for layer in reversed(range(subnet.depth)):
            heads = _lower(self.heads_choices, subnet.heads[layer])
            if heads is not None:
                subnet = dataclasses.replace(subnet, heads=_with(subnet.heads, layer, int(heads)))
                yield subnet
        depth = _lower(self.depth_choices, subnet.depth)
        if depth is not None:
            subnet = SubnetSpec(
                subnet.embed_dim, subnet.heads[: int(depth)], subnet.mlp_ratios[: int(depth)]
            )
            yield subnet
        width = _lower(self.embed_choices, subnet.embed_dim)
        if width is not None:
            yield dataclasses.replace(subnet, embed_dim=int(width))


T = TypeVar("T")


def _with(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _lower(choices: tuple[float, ...] | tuple[int, ...], value: float) -> float | None:
    """The next smaller choice, or None at the smallest."""
    below = [choice for choice in choices if choice < value]
    return below[-1] if below else None
