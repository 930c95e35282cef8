"""Heads of exits that a fine-tune left beside the weights of its backbone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autotok.backbones.checkpoint import read_state_dict
from autotok.compression.exit_set import ExitSet
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy
from autotok.facts import BackboneFacts

from .best_yaml import read_best
from .weights import EXITS, load_into


def trained_policy(checkpoint: Path) -> ExitPolicy:
    """The exits whose heads lie beside a weight file, in the folder of a bundle.

    Raises:
        ConfigError: there are none.
    """
    home = checkpoint.parent
    policy = read_best(home).config.exits if (home / "config.yaml").is_file() else None
    if policy is None or not (home / EXITS).is_file():
        raise ConfigError(
            f"beside '{checkpoint}' lie no trained heads of exits; give the weights.safetensors in"
            " the folder 'best' that autotok finetune --exits ... wrote"
        )
    return policy


def require_heads(asked: Iterable[ExitPolicy], trained: ExitPolicy) -> None:
    """Raise where exits ask for a head that was not trained.

    Raises:
        ConfigError: names it, and those that were.
    """
    for policy in asked:
        for layer, kind in policy.places:
            if (layer, kind) not in trained.places:
                known = ", ".join(f"{kind}@{layer}" for layer, kind in trained.places)
                raise ConfigError(
                    f"exit {kind}@{layer} has no trained head; trained are {known}: choose among"
                    " these, or train it with autotok finetune --exits"
                )


def trained_exits(checkpoint: Path, facts: BackboneFacts) -> ExitSet:
    """Those heads, for a backbone of these facts, in evaluation.

    Raises:
        ConfigError: see `trained_policy`.
        CheckpointError: they do not fit the backbone.
    """
    found, file = ExitSet(trained_policy(checkpoint), facts), checkpoint.parent / EXITS
    load_into(found, read_state_dict(file), file)
    return found.eval()
