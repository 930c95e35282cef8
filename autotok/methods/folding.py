"""`Folding`: for methods that also change weights of the backbone, once, before it runs.

A fold is exact and costs nothing at inference: what comes out is a weight like the one that went
in. `compress` calls it once per block on its own copy; the user's model is never written.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autotok.config import CompressionConfig, Options
from autotok.facts import BackboneFacts

from .base import TokenReducer
from .registry import get_method


class WeightFold:
    """What a method makes of the projections to queries, keys and values; here nothing."""

    def fold(self, layer: int, qkv_weight: Tensor, width: int) -> Tensor:
        """The weight (3 H D, C) that block `layer` runs with; queries' rows first, then keys'.

        Args:
            qkv_weight: The backbone's own.
            width: C.
        """
        return qkv_weight


class Folding(TokenReducer):
    """A reducer with a `WeightFold`; its option `adapters` names the file that the fold is made
    from, and without one there is none."""

    @classmethod
    def weight_fold(
        cls,
        facts: BackboneFacts,
        kept: Mapping[int, int],
        options: Options,
        tensors: Mapping[str, Tensor],
    ) -> WeightFold | None:
        """The fold for a schedule; None where it would change nothing.

        Args:
            kept: Patch tokens leaving each reduction layer.
            options: All of the method's, resolved.
            tensors: Of the adapters' file, by their authors' names.

        Raises:
            CheckpointError: the tensors are not those of this backbone and these options.
            ConfigError: the schedule is outside of what the adapters are for.
        """
        raise NotImplementedError

    @classmethod
    def told_by(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> dict[str, int | float]:
        """Options that an adapters' file says itself: they hold where the configuration names
        none."""
        return {}


def adapters_of(config: CompressionConfig) -> str:
    """The adapters' file that a configuration names; '' for none."""
    folds = issubclass(get_method(config.method), Folding)
    return str(config.options.get("adapters", "")) if folds else ""
