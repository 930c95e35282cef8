"""Training a supernet: one subnet a step on the shared weights, by a recipe, resumable."""

from __future__ import annotations

import copy
import csv
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET, save_supernet
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.errors import CheckpointError
from autotok.evaluation.demo import MEAN, STD, DemoDigits

from .live_tokens import choose_live, forward_live
from .recipe import Recipe, Stage, load_recipe
from .sampling import draw_subnet

__all__ = ["Progress", "evaluate_subnet", "train_from_recipe"]

log = logging.getLogger(__name__)
TRAIN_SEED_STRIDE = 1_000_003
COLUMNS = (
    "stage",
    "step",
    "seconds",
    "loss",
    "train_top1_pct",
    "lr",
    "images_per_s",
    "val_top1_pct",
)


@dataclass(frozen=True)
class Progress:
    """What the training reports every few steps."""

    step: int
    steps: int
    stage: str
    loss: float
    train_top1_pct: float
    images_per_s: float


@dataclass
class _State:
    """Everything a checkpoint holds."""

    supernet: AutoFormerSupernet
    ema: AutoFormerSupernet
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0


def train_from_recipe(
    path: Path,
    output: Path,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Train by a recipe into `output`; returns the weight file (half precision).

    Writes `log.csv`, `checkpoint.pt` every `val_every` steps, and `autoformer_demo.safetensors`.
    With `resume` it goes on from the checkpoint.
    """
    recipe = load_recipe(path)
    output.mkdir(parents=True, exist_ok=True)
    state = _fresh(recipe)
    if resume:
        _restore(state, output / "checkpoint.pt")
    started = time.perf_counter() - state.seconds
    window: list[tuple[float, float, int, float]] = []
    while state.step < recipe.steps:
        stage, local = recipe.locate(state.step)
        began = time.perf_counter()
        loss, correct = _step(state, recipe, stage, local)
        window.append((loss, correct, stage.batch_size, time.perf_counter() - began))
        state.step += 1
        state.seconds = time.perf_counter() - started
        ends = state.step == recipe.steps or recipe.locate(state.step)[1] == 0
        check = state.step % recipe.val_every == 0 or ends
        if check or state.step % 20 == 0:
            report = _report(state, recipe, stage, window)
            window = []
            _log_row(output / "log.csv", state, stage, local, report, _check(state, recipe, check))
            if progress is not None:
                progress(report)
        if check:
            _save(state, output / "checkpoint.pt")
    weights = output / "autoformer_demo.safetensors"
    save_supernet(state.ema, weights)
    return weights


def _fresh(recipe: Recipe) -> _State:
    torch.manual_seed(recipe.seed)
    supernet = AutoFormerSupernet(DEMO_SPEC)
    with torch.no_grad():
        supernet.pos_embed[0, 1:] = 0.3 * _sinusoids(DEMO_SPEC.grid, DEMO_SPEC.embed_dim)
    optimizer = torch.optim.AdamW(
        supernet.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    return _State(supernet, copy.deepcopy(supernet), optimizer)


def _sinusoids(grid: tuple[int, int], width: int) -> Tensor:
    """(rows * columns, width): where training starts the position table."""
    frequency = 30.0 ** -torch.linspace(0.0, 1.0, width // 4)
    axes = []
    for extent in grid:
        angle = torch.arange(extent)[:, None] * frequency
        axes.append(torch.cat([angle.sin(), angle.cos()], dim=1))
    rows, columns = grid
    table = [
        axes[0][:, None].expand(rows, columns, -1),
        axes[1][None].expand(rows, columns, -1),
    ]
    return torch.cat(table, dim=-1).reshape(rows * columns, width)


def _step(state: _State, recipe: Recipe, stage: Stage, local: int) -> tuple[float, float]:
    """One optimiser step; returns loss and the share of correct images."""
    rng = np.random.default_rng([recipe.seed, state.step])
    subnet = draw_subnet(DEMO_SPEC, DEMO_SUBNET, stage.subnets, rng)
    view = SupernetView(state.supernet, subnet).train()
    lr = stage.at(stage.lr, local) * min(1.0, (state.step + 1) / recipe.warmup_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    images, labels, index, size = _batch(recipe, stage, state.step, local, rng)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        logits = view(images) if index is None else forward_live(view, images, index, size)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.supernet.parameters(), recipe.clip_norm)
    state.optimizer.step()
    _update_ema(state, recipe)
    correct = (logits.argmax(dim=-1) == labels).float().mean().item()
    return loss.item(), correct


@torch.no_grad()
def _update_ema(state: _State, recipe: Recipe) -> None:
    decay = min(recipe.ema_decay, (1 + state.step) / (10 + state.step))
    for mean, value in zip(state.ema.parameters(), state.supernet.parameters(), strict=True):
        mean.lerp_(value, 1.0 - decay)


def _batch(
    recipe: Recipe, stage: Stage, step: int, local: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Images (B, 1, S, S), labels (B,), live indices (B, K) or None, and sizes (B, K)."""
    seed = recipe.seed + TRAIN_SEED_STRIDE * (step + 1)
    data = DemoDigits("train", stage.batch_size, seed, stage.at(stage.clutter, local))
    drawn = [data.draw(i) for i in range(stage.batch_size)]
    canvases = torch.from_numpy(np.stack([canvas for canvas, _, _ in drawn]))
    images = ((canvases - MEAN) / STD)[:, None]
    labels = torch.tensor([label for _, label, _ in drawn])
    if stage.live_tokens is None:
        return images, labels, None, torch.empty(0)
    power = stage.at(stage.weight_power, local)
    live = [
        choose_live(canvas, box, DEMO_SPEC.patch_size, stage.live_tokens, power, rng)
        for canvas, _, box in drawn
    ]
    index = torch.from_numpy(np.stack([chosen.index for chosen in live]))
    return images, labels, index, torch.from_numpy(np.stack([chosen.size for chosen in live]))


@torch.inference_mode()
def evaluate_subnet(backbone: Backbone, data: DemoDigits, count: int) -> int:
    """How many of the first `count` whole canvases the backbone classifies correctly."""
    backbone.eval()
    correct = 0
    for index in range(count):
        image, label = data[index]
        correct += int(backbone(image[None]).argmax(dim=-1).item() == label)
    return correct


def _check(state: _State, recipe: Recipe, wanted: bool) -> float | None:
    if not wanted or recipe.val_images == 0:
        return None
    data = DemoDigits("val", recipe.val_images, seed=1)
    view = SupernetView(state.ema, DEMO_SUBNET)
    return 100.0 * evaluate_subnet(view, data, recipe.val_images) / recipe.val_images


def _report(
    state: _State, recipe: Recipe, stage: Stage, window: list[tuple[float, float, int, float]]
) -> Progress:
    loss, correct, images, seconds = (np.array(column) for column in zip(*window, strict=True))
    return Progress(
        step=state.step,
        steps=recipe.steps,
        stage=stage.name,
        loss=float(loss.mean()),
        train_top1_pct=100.0 * float(correct.mean()),
        images_per_s=float(images.sum() / seconds.sum()),
    )


def _log_row(
    path: Path, state: _State, stage: Stage, local: int, report: Progress, val: float | None
) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        row = [stage.name, state.step, f"{state.seconds:.0f}", f"{report.loss:.4f}"]
        row += [f"{report.train_top1_pct:.1f}", f"{stage.at(stage.lr, local):.2e}"]
        row += [f"{report.images_per_s:.1f}", "" if val is None else f"{val:.1f}"]
        writer.writerow(row)
    log.info("%s", ", ".join(f"{k} {v}" for k, v in zip(COLUMNS, row, strict=True) if v))


def _save(state: _State, path: Path) -> None:
    data: dict[str, Any] = {
        "supernet": state.supernet.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
    }
    partial = path.with_suffix(".partial")
    torch.save(data, partial)
    partial.replace(path)


def _restore(state: _State, path: Path) -> None:
    try:
        data = torch.load(path, weights_only=True)
    except Exception as error:  # the unpickler raises whatever the garbage makes it raise
        raise CheckpointError(
            f"training cannot resume from '{path}' ({type(error).__name__}); start without --resume"
        ) from error
    state.supernet.load_state_dict(data["supernet"])
    state.ema.load_state_dict(data["ema"])
    state.optimizer.load_state_dict(data["optimizer"])
    state.step, state.seconds = int(data["step"]), float(data["seconds"])
