"""Cost of methods that run the blocks twice, and the confidence at which they meet a mean cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autotok.backbones.base import evaluating
from autotok.compression.compress import reconfigured
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.methods.cfvit import num_coarse
from autotok.methods.primitives import confidence
from autotok.methods.registry import get_method
from autotok.methods.two_pass import TwoPass

from .image_costs import ImageCosts
from .macs import cost


@dataclass(frozen=True)
class PassCosts:
    """Multiply-accumulates of one image: the two amounts that there are."""

    exit: int
    """The first pass alone."""
    exit_noattn: int
    both: int
    """Both passes: what a limit on every single image is held to."""
    both_noattn: int

    @property
    def fine(self) -> int:
        """What the second pass adds."""
        return self.both - self.exit

    @classmethod
    def of(cls, facts: BackboneFacts, config: CompressionConfig) -> PassCosts:
        """Those of a configuration of a two-pass method."""
        method, whole = get_method(config.method), cost(facts, config)
        assert issubclass(method, TwoPass)
        linear, products = method.first_pass_macs(facts, method.resolve_options(config.options))
        return cls(linear + products, linear, whole.macs, whole.macs_noattn)


def pass_costs(model: TwoPassViT, refined: Tensor) -> ImageCosts:
    """What images cost, by whether they took the second pass, (B,) bool."""
    facts = model.backbone.facts
    each, again = PassCosts.of(facts, model.config), refined.cpu().numpy()
    tokens = np.where(again, model.schedule.readout, num_coarse(facts))
    return ImageCosts(
        np.where(again, each.both, each.exit),
        np.where(again, each.both_noattn, each.exit_noattn),
        np.repeat(tokens[:, None], facts.num_blocks + 1, axis=1),
    )


@torch.no_grad()
def calibrated_to(model: TwoPassViT, images: Tensor, macs_g: float) -> TwoPassViT:
    """The model with the threshold at which images (B, C, H, W), held out, cost `macs_g` on
    average: the share that can be looked at twice is the least confident.

    Raises:
        ConfigError: below one pass or above two; the message names the range.
    """
    each = PassCosts.of(model.backbone.facts, model.config)
    if not each.exit <= macs_g * 1e9 <= each.both:
        raise ConfigError(
            f"method '{model.config.method}' cannot cost {macs_g:g} GFLOPs on average; its first"
            f" pass costs {each.exit / 1e9:.4g} and both {each.both / 1e9:.4g}, ask for one between"
        )
    with evaluating(model):
        found = confidence(model.first(images).logits).double().sort().values
    share = (macs_g * 1e9 - each.exit) / each.fine
    count = int(share * len(found) + 1e-9)
    # half-way to the next, so that other arithmetic decides alike; above 1 every image is unsure
    edges = [0.0, *found.tolist(), 1.1]
    threshold = edges[-1] if count == len(found) else (edges[count] + edges[count + 1]) / 2.0
    options = {**model.config.options, "threshold": threshold if count else 0.0}
    fresh = reconfigured(model, dataclasses.replace(model.config, options=options))
    assert isinstance(fresh, TwoPassViT)
    return fresh
