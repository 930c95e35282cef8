"""`GraphPart`: a model that stops early, cut into static graphs where it may stop.

A model with exits is the blocks up to each exit with its head, and the rest; one of two passes is
its passes. No graph holds a condition: who runs them compares the logits and stops, by the rule of
`stop_rule`. What a graph hands to later ones are tensors by name, of one image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from autotok.compression.exit_rules import first_exits
from autotok.compression.exit_scores import recorded_exits
from autotok.compression.model import CompressedViT
from autotok.compression.two_pass import TwoPassViT
from autotok.methods.two_pass import FirstPass
from autotok.tokens import Taps, Tokens, each_changed

from .formats import INPUT
from .infer import AnyArray, PartRunner

LOGITS = "logits"
"""The first that every part gives."""


class GraphPart(nn.Module):
    """One graph: tensors in the order of `takes` to tensors in that of `gives`."""

    takes: tuple[str, ...] = (INPUT,)
    gives: tuple[str, ...] = (LOGITS,)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


def array_runner(opened: nn.Module) -> PartRunner:
    """What runs a part that torch opened, or a part itself, on arrays."""

    def run(arrays: Sequence[AnyArray]) -> list[AnyArray]:
        with torch.no_grad():
            return [value.numpy() for value in opened(*map(torch.from_numpy, arrays))]

    return run


def has_parts(model: nn.Module) -> bool:
    """Whether how much of the model runs depends on the image, in steps that graphs can be."""
    early = isinstance(model, CompressedViT) and model.exits is not None
    return early or isinstance(model, TwoPassViT)


def graph_parts(model: CompressedViT, image: Tensor) -> list[GraphPart]:
    """The graphs of a model in evaluation, in the order in which they run; `image` (1, C, H, W) is
    an example."""
    if isinstance(model, TwoPassViT):
        return [_FirstLook(model), _SecondLook(model, model.first(image))]
    assert model.exits is not None
    last, values = model.backbone.facts.num_blocks, {INPUT: image}
    edges = [0, *(layer + 1 for layer in model.exits.policy.layers), last]
    parts: list[GraphPart] = []
    entering: _Entering | None = None
    for number, (start, stop) in enumerate(pairwise(edges)):
        part = _Segment(model, number, range(start, stop), entering)
        entering = part.watched(values)
        parts.append(part)
    return parts


def all_answers(model: CompressedViT, images: Tensor) -> Tensor:
    """(parts, n, K): what torch says at every stop of images (n, C, H, W), with nobody stopping."""
    singly = images.split(1)
    if isinstance(model, TwoPassViT):
        looks = [(model.first(image), image) for image in singly]
        again = [model.second(image, first) for first, image in looks]
        return torch.stack([torch.cat([first.logits for first, _ in looks]), torch.cat(again)])
    scores = recorded_exits(model, singly)
    return torch.cat([scores.logits, scores.final.unsqueeze(0)])


def stopped_at(model: CompressedViT, answers: Tensor) -> Tensor:
    """(n,) number of the part that answers each image, of what all say (parts, n, K)."""
    if isinstance(model, TwoPassViT):
        return model.method.unsure(answers[0]).long()
    assert model.exits is not None
    return first_exits(model.exits.policy, answers[:-1]) % len(answers)


def stop_rule(model: CompressedViT) -> dict[str, Any]:
    """Plain data: after which part but the last an image stops, by that part's logits."""
    if isinstance(model, TwoPassViT):
        threshold = float(model.method.values["threshold"])
        return {"criterion": "confidence", "thresholds": [threshold], "at_threshold": True}
    assert model.exits is not None
    policy = model.exits.policy
    rule: dict[str, Any] = {"criterion": policy.criterion, "thresholds": list(policy.thresholds)}
    return rule | ({"patience": policy.patience} if policy.patience else {})


@dataclasses.dataclass(frozen=True)
class _Entering:
    """What a segment finds: tokens, and under which name each of their tensors is handed over."""

    example: Tokens
    names: Mapping[str, str]

    def tokens(self, values: Mapping[str, Tensor]) -> Tokens:
        return _changed(self.example, lambda part, _: values[self.names[part]])


class _Segment(GraphPart):
    """Blocks up to an exit and its head, or up to the end."""

    def __init__(
        self, model: CompressedViT, number: int, layers: range, entering: _Entering | None
    ) -> None:
        super().__init__()
        assert model.exits is not None
        self.model, self.number, self.layers, self.entering = model, number, layers, entering
        self.is_last = number == len(model.exits.policy.layers)
        self.handed: tuple[str, ...] = ()
        """The parts of the tokens that are new behind it."""
        if entering is not None:
            self.takes = tuple(dict.fromkeys(entering.names.values()))

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        logits, tokens = self.both(dict(zip(self.takes, values, strict=True)))
        parts = _parts(tokens)
        return (logits, *(parts[name] for name in self.handed))

    def both(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tokens]:
        """(logits, tokens that leave)."""
        if self.entering is None:
            tokens, embedded = self.model.entered(values[INPUT])
        else:
            tokens, embedded = self.entering.tokens(values), Taps()
        tokens = self.model.through(self.layers, tokens, embedded)
        if self.is_last:
            return self.model.ended(tokens), tokens
        assert self.model.exits is not None
        return self.model.exits.read(self.number, tokens)[0], tokens

    def watched(self, values: dict[str, Tensor]) -> _Entering:
        """What the next one finds; it settles what this one gives, which `values` then hold."""
        _, tokens = self.both(values)
        known = {id(value): name for name, value in values.items()}
        found = {} if self.is_last else _parts(tokens)
        names = {part: known.get(id(v), f"{part}_{self.number}") for part, v in found.items()}
        self.handed = tuple(part for part, name in names.items() if name not in values)
        self.gives = (LOGITS, *(names[part] for part in self.handed))
        values.update({names[part]: found[part] for part in self.handed})
        return _Entering(tokens, names)


def _parts(tokens: Tokens) -> dict[str, Tensor]:
    """Every tensor of the tokens, by a name."""
    found: dict[str, Tensor] = {}

    def note(name: str, value: Tensor) -> Tensor:
        found[name] = value
        return value

    _changed(tokens, note)
    return found


def _changed(tokens: Tokens, change: Callable[[str, Tensor], Tensor]) -> Tokens:
    """`each_changed`, without training's masks and padding, which a single image does not have."""
    assert tokens.mask is None
    assert tokens.live is None
    return each_changed(tokens, change)


class _FirstLook(GraphPart):
    """A first pass."""

    gives = (LOGITS, "x", "embedded", "score")

    def __init__(self, model: TwoPassViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        first = self.model.first(values[0])
        return first.logits, first.tokens.x, first.embedded, first.score


class _SecondLook(GraphPart):
    """A second pass, on the image and what the first one found."""

    takes = (INPUT, "x", "embedded", "score")

    def __init__(self, model: TwoPassViT, example: FirstPass) -> None:
        super().__init__()
        self.model, self.example = model, example

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        image, x, embedded, score = values
        tokens = self.example.tokens.with_x(x)
        found = dataclasses.replace(self.example, tokens=tokens, embedded=embedded, score=score)
        return (self.model.second(image, found),)
