"""What a training holds between steps: made fresh, saved whole, restored to the bit."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotok.backbones.autoformer_spaces import is_supernet_checkpoint
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.supernet import AutoFormerSupernet
from autotok.backbones.weight_file import read_claims, read_weight_file
from autotok.errors import CheckpointError, ConfigError, misfit
from autotok.files import write_state

from .recipe import Recipe

log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """Everything a checkpoint holds."""

    supernet: AutoFormerSupernet
    ema: AutoFormerSupernet
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.supernet.cls_token.device


def fresh_state(recipe: Recipe, device: str = "cpu") -> TrainingState:
    """The state before the first step: weights drawn from the seed, or read from a file.

    Raises:
        CheckpointError: the weight file cannot be read or does not fit.
        ConfigError: there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, AttributeError) as error:
        raise ConfigError(
            f"device '{device}' is not here; train on cpu, or cuda where it is"
        ) from error
    torch.manual_seed(recipe.seed)
    supernet = AutoFormerSupernet(recipe.spec)
    if recipe.weights is not None:
        _start_from(supernet, Path(recipe.weights))
    elif recipe.position_start == "sinusoids":
        with torch.no_grad():
            table = _sinusoids(recipe.spec.grid, recipe.spec.embed_dim)
            supernet.pos_embed[0, 1:] = 0.3 * table
    supernet = supernet.to(device)
    optimizer = torch.optim.AdamW(
        supernet.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    return TrainingState(supernet, copy.deepcopy(supernet), optimizer)


def _start_from(supernet: AutoFormerSupernet, path: Path) -> None:
    """Load weights; a head for another number of classes is left as it was drawn."""
    tensors = {key: value.float() for key, value in read_state_dict(path).items()}
    if not is_supernet_checkpoint(tensors):
        raise CheckpointError(
            f"weights '{path}' are no AutoFormer supernet; give an official checkpoint or one that"
            " `autotok supernet train` wrote"
        )
    head = tensors.get("head.weight")
    if head is not None and head.shape[0] != supernet.spec.num_classes:
        log.warning(
            "weights '%s' classify into %d classes, not %d: the head starts afresh",
            path, head.shape[0], supernet.spec.num_classes,
        )  # fmt: skip
        own = supernet.state_dict()
        tensors |= {key: own[key] for key in ("head.weight", "head.bias")}
    try:
        supernet.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"weights '{path}' do not fit the recipe's supernet ({misfit(error)}); give its shapes"
            " under 'spec'"
        ) from error


def _sinusoids(grid: tuple[int, int], width: int) -> Tensor:
    """(rows * columns, width): where training starts the position table."""
    frequency = 30.0 ** -torch.linspace(0.0, 1.0, width // 4)
    axes = []
    for extent in grid:
        angle = torch.arange(extent)[:, None] * frequency
        axes.append(torch.cat([angle.sin(), angle.cos()], dim=1))
    rows, columns = grid
    table = [axes[0][:, None].expand(rows, columns, -1), axes[1][None].expand(rows, columns, -1)]
    return torch.cat(table, dim=-1).reshape(rows * columns, width)


def save_state(state: TrainingState, recipe: Recipe, path: Path) -> None:
    """Write everything; a reader, a kill or a full disk never meets half a file."""
    data: dict[str, Any] = {
        "supernet": state.supernet.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "recipe": json.dumps(recipe.past(state.step), default=str),
    }
    write_state(path, data)


def restore_state(state: TrainingState, recipe: Recipe, path: Path) -> None:
    """Put a checkpoint's contents into a fresh state.

    Raises:
        CheckpointError: there is none, it is damaged, or it belongs to another recipe.
    """
    with _told_of(path):
        read_claims(path)  # refuses what would grow on reading
        data: Any = read_weight_file(path)
        step, seconds = int(data["step"]), float(data["seconds"])
        then = json.loads(data["recipe"]) if "recipe" in data else None
    if then is not None:
        now = json.loads(json.dumps(recipe.past(step)))
        changed = [key for key in now if then.get(key) != now[key]]
        if changed or step > recipe.steps:
            what = f"'{changed[0]}'" if changed else "'stages'"
            raise CheckpointError(
                f"checkpoint '{path}' was trained by another recipe ({what} differs); resume with"
                " the same recipe (stages may be added at its end), or start in another folder"
            )
    with _told_of(path):
        state.supernet.load_state_dict(data["supernet"])
        state.ema.load_state_dict(data["ema"])
        state.optimizer.load_state_dict(data["optimizer"])
    state.step, state.seconds = step, seconds


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Says of a file that it is no checkpoint of a training, whatever it is instead."""
    try:
        yield
    except Exception as error:  # the unpickler raises whatever the garbage makes it raise
        raise CheckpointError(
            f"training cannot resume from '{path}' ({type(error).__name__}); start without --resume"
        ) from error
