"""When an image stops: LGViT's rules (Xu et al., ACM MM 2023), each image by itself.

Departures from the authors' code: they take the surest image of a batch for all of it, their
entropy is no number once a probability underflows, and they mix up threshold and patience.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from autotok.errors import ConfigError
from autotok.exits import ExitPolicy
from autotok.methods.primitives import confidence


def entropy(logits: Tensor) -> Tensor:
    """(...,) entropy of logits (..., K) in nats, in float32; 0 log 0 is 0."""
    logs = logits.float().log_softmax(dim=-1)
    return -(logs.exp() * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(dim=-1)


@dataclass
class StoppingRule:
    """Which images of a batch stop, asked exit by exit; holds what patience remembers of each."""

    policy: ExitPolicy
    number: int = field(default=0, init=False)
    """The exit asked next."""
    counter: Tensor | None = field(default=None, init=False)
    classes: Tensor | None = field(default=None, init=False)

    def stops(self, logits: Tensor) -> Tensor:
        """(B,) bool of the next exit's logits (B, K)."""
        policy, number = self.policy, self.number
        if policy.wants_threshold:
            raise ConfigError(
                f"exits shall cost {policy.mean_macs} multiply-accumulates on average, and no"
                " threshold was found for that yet; evaluate them on data with --mean-cost, or give"
                " a threshold"
            )
        self.number += 1
        if policy.criterion == "confidence":
            return confidence(logits) > policy.thresholds[number]
        if policy.criterion == "entropy":
            return entropy(logits) < policy.thresholds[number]
        if policy.criterion == "patience":
            named = logits.argmax(dim=-1)
            same = torch.zeros_like(named) if self.classes is None else named == self.classes
            self.classes = named
            self.counter = self._counted(same.bool(), torch.ones_like(named))
        else:
            sure = entropy(logits) < policy.thresholds[number]
            zeros = torch.zeros_like(sure, dtype=torch.long)
            self.counter = self._counted(sure, zeros)
            if number == 0:
                self.counter = sure.long()
        return self.counter == policy.patience

    def _counted(self, going_on: Tensor, start: Tensor) -> Tensor:
        """The counter, one higher where it goes on and back at its start elsewhere."""
        return start if self.counter is None else torch.where(going_on, self.counter + 1, start)

    def keep(self, rows: Tensor) -> None:
        """Only the images at `rows` (k,) go on."""
        if self.counter is not None:
            self.counter = self.counter[rows]
        if self.classes is not None:
            self.classes = self.classes[rows]


def first_exits(policy: ExitPolicy, logits: Tensor) -> Tensor:
    """(B,) number of the exit each image stops at, -1 for none, of all exits' logits (E, B, K)."""
    rule, found = StoppingRule(policy), torch.full(logits.shape[1:2], -1, device=logits.device)
    for number, own in enumerate(logits):
        found = torch.where((found < 0) & rule.stops(own), number, found)
    return found
