"""Reads damaged weight files one after another, in a process that may be lost."""

import re
import signal
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from damage import Weights, damaged
from safetensors import safe_open
from small_vits import LAYOUTS, PLAIN, layout

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.autoformer_family import CUSTOM, load_supernet
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.loading import load_backbone
from autotok.backbones.lvvit import LVVIT, LVViT, LVViTSpec
from autotok.backbones.supernet import AutoFormerSupernet
from autotok.backbones.supernet_file import save_cut, save_supernet
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.official import load_official
from autotok.errors import AutotokError
from autotok.methods import get_method
from autotok.testing import example_config
from autotok.training.student import load_weights, save_weights

SPEC = SupernetSpec(
    embed_dim=24, depth=2, heads=3, mlp_ratio=3.0, embed_choices=(16, 24), depth_choices=(1, 2),
    heads_choices=(2, 3), mlp_ratio_choices=(2.0, 3.0), image_shape=(1, 8, 8), patch_size=4,
    num_classes=10, head_dim=4, max_offset=2,
)  # fmt: skip
SECONDS = 5
WHOLE = "whole.safetensors"
Kind = tuple[Weights, dict[str, str], Callable[[Path], object]]
"""Tensors, metadata and reader of one kind of weight file."""


def kinds(folder: Path) -> list[Kind]:
    """Every kind of file that autotok reads weights from."""
    torch.manual_seed(0)
    found: list[Kind] = []
    for word in LAYOUTS:
        found.append((layout(word).state_dict(), {}, lambda p: load_backbone(PLAIN, checkpoint=p)))
    LVVIT["lvvit_s"] = LVViTSpec(24, 2, 3, 48, image_shape=(3, 32, 32), patch_size=8)
    lvvit = LVViT(LVVIT["lvvit_s"]).state_dict()
    supernet = AutoFormerSupernet(SPEC)
    save_supernet(supernet, folder / WHOLE, name=CUSTOM)
    whole = _read(folder / WHOLE)
    save_cut(supernet.cut(SPEC.smallest()), folder / WHOLE, name=CUSTOM)
    small = _read(folder / WHOLE)
    for _ in range(4):  # as often as the layouts, together
        found.append((lvvit, {}, lambda p: load_backbone("lvvit_s", checkpoint=p)))
        found.append((*whole, lambda p: load_backbone(_supernet(p), checkpoint=p)))
        found.append((*whole, lambda p: load_supernet(_supernet(p), checkpoint=p)))
        found.append((*small, lambda p: load_backbone(_supernet(p), checkpoint=p)))
    backbone = tiny_backbone()
    for method in ("dynamicvit", "ltmp", "diffrate"):
        config = example_config(get_method(method), backbone.facts)
        model = compress_backbone(backbone, config)
        save_weights(model, folder / WHOLE)
        tensors, metadata = _read(folder / WHOLE)
        found.append((tensors, metadata, lambda p, model=model: load_weights(model, p)))
        official = {f"blocks.{n}.{w}": torch.ones(()) for n in "12" for w in (
            "merge_threshold", "prune_threshold")}  # fmt: skip
        official |= {f"score_predictor.{key.removeprefix('reducers.')}": value
                     for key, value in tensors.items() if key.startswith("reducers")}  # fmt: skip
        found.append(
            (official, {}, lambda p, model=model: load_official(model, read_state_dict(p)))
        )
    return found


def _supernet(path: Path) -> str:
    return CUSTOM if path.suffix == ".safetensors" else "autoformer_tiny"


def _read(path: Path) -> tuple[Weights, dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})


def read_all(count: int, folder: Path, results: Connection) -> None:
    """Send (number, fault or None, loaded) for each file, and the peak memory added at the end."""
    warnings.simplefilter("error")
    readers = kinds(folder)
    start = peak_mb()
    for number in range(count):
        tensors, metadata, read = readers[number % len(readers)]
        only = ".safetensors" if "config_id" in metadata else None  # weights of a fine-tune
        path = damaged(folder, number, tensors, metadata, only=only)
        results.send((number, *_tried(read, path)))
        path.unlink()
    results.send(("peak", peak_mb() - start, False))


def _tried(read: Callable[[Path], object], path: Path) -> tuple[str | None, bool]:
    """What is wrong with how the file was taken, if anything; and whether it was loaded."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(path)
        return None, True
    except AutotokError as error:
        text = str(error)
        fine = "\n" not in text and len(text) < 600 and re.search(r"[a-z]", text)
        return None if fine else f"not one sentence: {text[:1000]}", False
    except BaseException:
        return traceback.format_exc(limit=-8), False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def peak_mb() -> float:
    """Most memory this process has held, in MB; 0 where the system does not say."""
    with suppress(OSError):
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1024
    return 0.0


def _over_time(*_: object) -> None:
    raise TimeoutError(f"still reading after {SECONDS} s")


if hasattr(signal, "SIGALRM"):
    signal.signal(signal.SIGALRM, _over_time)
