"""`ExitSet`: a policy with its heads, and what becomes of a batch that meets them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy
from autotok.facts import BackboneFacts
from autotok.methods.registry import get_method
from autotok.methods.two_pass import TwoPass
from autotok.tokens import Tokens, exactly

from .exit_heads import Read, exit_head
from .exit_rules import StoppingRule
from .schedule import Schedule


def check_exits(config: CompressionConfig, facts: BackboneFacts, schedule: Schedule) -> None:
    """Raise where the exits of a configuration cannot stand.

    Raises:
        ConfigError: a block that does not exist, a model without classes, or a head that needs the
            whole grid behind a reduction.
    """
    policy = config.exits
    if policy is None:
        return
    if policy.layers[-1] >= facts.num_blocks:
        raise ConfigError(
            f"an exit at layer {policy.layers[-1]} cannot be: backbone '{facts.name}' has"
            f" {facts.num_blocks} blocks (0-{facts.num_blocks - 1})"
        )
    if not facts.num_classes:
        raise ConfigError(
            f"exits answer in classes, and backbone '{facts.name}' has no classifier; leave exits"
            " out, or take a backbone with a head"
        )
    method = get_method(config.method)
    own = {reduction.layer: reduction.options for reduction in config.reductions}
    if issubclass(method, TwoPass):
        raise ConfigError(
            f"method '{config.method}' stops images early by itself, between its two passes; leave"
            " exits out, or take another method"
        )
    for layer, kind in policy.places:
        before = [
            site.layer
            for site in schedule.sites
            if site.layer <= layer
            and method.acts(
                site.num_entering,
                site.num_keep,
                method.resolve_options({**config.options, **own[site.layer]}),
            )
        ]
        if kind == "local-dw" and before:
            raise ConfigError(
                f"exit kind 'local-dw' at layer {layer} needs the whole grid of patches, and method"
                f" '{config.method}' reduces it at layer {before[0]}; choose local there, or put"
                " the exit before"
            )


class ExitSet(nn.Module):
    """The heads of a policy, in its order."""

    def __init__(self, policy: ExitPolicy, facts: BackboneFacts) -> None:
        super().__init__()
        self.policy = policy
        self.heads = nn.ModuleList(exit_head(kind, facts, layer) for layer, kind in policy.places)

    def head(self, number: int) -> Read:
        """The head of exit `number`."""
        return cast(Read, self.heads[number])

    def read(self, number: int, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """(logits (B, K), features (B, m, C)) of exit `number`, in the tokens' own precision."""
        with exactly(tokens.x):
            logits, features = self.head(number)(tokens)
        return logits, features

    def ask_behind(self, layer: int, tokens: Tokens) -> None:
        """Run the head behind block `layer`, if there is one; nobody wants the answer."""
        if layer in self.policy.layers:
            self.read(self.policy.layers.index(layer), tokens)

    @property
    def needs_grid(self) -> bool:
        """Whether a head asks where reduced tokens came from."""
        return any(kind.startswith("global") for kind in self.policy.kinds)

    def take(self, other: ExitSet) -> None:
        """Take over another set's heads where the same kind reads the same block, as objects."""
        theirs = dict(zip(other.policy.places, other.heads, strict=True))
        for number, place in enumerate(self.policy.places):
            if place in theirs:
                self.heads[number] = theirs[place]

    def begin(self) -> EarlyAnswers:
        """A batch begins."""
        return EarlyAnswers(self)


class EarlyAnswers:
    """The answers of one batch, as its images stop."""

    def __init__(self, exits: ExitSet) -> None:
        self.exits, self.rule = exits, StoppingRule(exits.policy)
        self.left: Tensor | None = None  # (k,) images that go on; None: all of them
        self.answers: Tensor | None = None  # (B, K)

    def ask(self, layer: int, tokens: Tokens) -> Tensor | None:
        """Rows of `tokens` that go on behind block `layer`; None where all do.

        On the meta device nobody knows, so that every head runs.
        """
        policy = self.exits.policy
        if layer not in policy.layers:
            return None
        logits, _ = self.exits.read(policy.layers.index(layer), tokens)
        if logits.is_meta:
            return None
        stop = self.rule.stops(logits)
        if not bool(stop.any()):
            return None
        self._put(logits, stop)
        rows = (~stop).nonzero().squeeze(1)
        everyone = torch.arange(len(stop), device=stop.device) if self.left is None else self.left
        self.left = everyone[rows]
        self.rule.keep(rows)
        return rows

    def _put(self, logits: Tensor, stop: Tensor) -> None:
        if self.answers is None:
            self.answers = torch.empty_like(logits)
        where = stop if self.left is None else self.left[stop]
        self.answers[where] = logits[stop].to(self.answers.dtype)

    def with_final(self, logits: Tensor | None) -> Tensor:
        """(B, K), with the final answer of those that went on to the end; None where nobody did."""
        if self.answers is None:
            assert logits is not None
            return logits
        if logits is not None:
            assert self.left is not None
            self.answers[self.left] = logits.to(self.answers.dtype)
        return self.answers
