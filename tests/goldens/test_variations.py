"""Configurations that no file here holds: the readers run them, with the counts the papers say."""

from typing import Any

import numpy as np
import pytest
import readers_adaptive
import torch
from runner import GOLDEN, Case, images, opened, run, tiny_vit
from test_goldens import readers

from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction

EDITS = "stage starts at blocks {}, stage ends at {}"
# file, changes to its configuration, tokens entering each block (prefix included)
COUNTS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("topk_r07_l134", {"layers": [1, 2, 3], "token_ratio_of_initial": [0.5, 0.5, 0.3]},
     [65, 65, 33, 33, 20, 20]),
    ("topk_r07_l134", {"layers": [0, 5], "token_ratio_of_initial": [0.9, 0.1]},
     [65, 58, 58, 58, 58, 58]),
    ("evit_k07_l134_fuse", {"layers": [1, 3], "keep_per_layer": [1, 0.99, 1, 0.5, 1, 1]},
     [65, 65, 65, 65, 34, 34]),
    ("evit_k07_l134_nofuse", {"layers": [1, 3], "keep_per_layer": [1, 40, 1, 0.5, 1, 1]},
     [65, 65, 41, 41, 21, 21]),
    ("tome_r8_prop", {"r": [40, 0, 30, 30, 5, 1]}, [65, 33, 33, 17, 9, 5]),
    ("tofu_reimpl_ratio0.9_default", {"ratio": [0.7, 1.0, 0.6, 0.9, 0.8, 0.95]},
     [65, 46, 46, 28, 26, 21]),
    ("pitome_ratio0.9_default", {"ratio": [0.9, 0.5, 1.0, 0.7, 0.9, 0.6]},
     [65, 59, 30, 30, 22, 20]),
    ("ppt_r12_l2_l4_mixed", {"threshold": 1e9, "layers": [0, 1], "r": 40},
     [65, 33, 17, 17, 17, 17]),
    ("gtp_p8_mixed_scale", {"graph_type": "Spatial", "selection": "IMGAttnMean", "num_prop": 4,
                            "sparsity": 0.8}, [65, 61, 57, 53, 49, 45]),
    ("gtp_p5_semantic_clsmean", {"num_prop": [8, 0, 8, 0, 8, 0], "selection": "MixedAttnSum"},
     [65, 57, 57, 49, 49, 41]),
    ("diffrate_prune_merge", {"prune_kept": [65, 65, 50, 65, 65, 30],
                              "merge_kept": [65, 65, 65, 40, 65, 65]}, [65, 65, 65, 50, 40, 40]),
    ("dtem_r8_eval", {"r": [16, 0, 12, 40, 0, 4]}, [65, 49, 49, 37, 19, 19]),
    ("dynamicvit_r07_l134", {"token_ratio_of_initial": [1.0, 0.5, 0.5]}, [65, 65, 65, 33, 33, 33]),
    ("tps_dtps_list_l1_l4", {"keep_ratio_list": [1.0, 0.3]}, [65, 65, 65, 65, 20, 20]),
    ("tps_etps_derived_0.7_l1_l3", {"keep": {"0": 0.6, "2": 1.0, "5": 0.9}},
     [65, 40, 40, 40, 40, 40]),
    ("cropr_R8_nollf", {"pruned_per_module": [9, 0, 8, 0, 8]}, [65, 56, 56, 48, 48, 40]),
    ("cropr_R8_llf", {"pruned_per_module": [20, 20]}, [65, 45, 25, 25, 25, 65]),
    ("idlevit_k07_l12345", {"idle_layers": [0, 2, 5], "keep_ratio_of_initial": [0.5, 0.2, 0.9]},
     [33, 65, 13, 65, 65, 58]),
    ("tofe_batch_l134", {"budget_N_s": [20, 64, 30]}, [65, 21, 21, 65, 31, 31]),
    ("tofe_batch_l134", {"budget_N_s": [64, 20, 64]}, [65, 65, 65, 21, 65, 65]),
    ("papr_z05", {"z": 0.95}, [62] * 6),
    ("ltp_k07_a05", {"keep": 0.1, "alpha": 1.0}, [8] * 6),
    ("evovit_stagewise_05", {"prune_ratio_per_layer": [1, 0.7, 0.7, 0.3, 0.3, 0.5],
                             "edits": EDITS.format("1, 3 and 5", "2, 4 and 5")},
     [65, 45, 45, 20, 20, 33]),
    ("evovit_stagewise_05", {"prune_ratio_per_layer": [1, 0.7, 1, 0.3, 0.3, 1],
                             "edits": EDITS.format("1 and 3", "1 and 4")},
     [65, 45, 65, 20, 20, 65]),
    ("kmedoids_C", {"block_indices": [1, 4], "cluster_counts": [50, 12],
                    "farthest_point_start": [63, 49]}, [65, 51, 51, 51, 13, 13]),
    ("dpcknn_C", {"block_indices": [1, 3, 5], "cluster_counts": [44, 31, 21], "k_neighbors": 7},
     [65, 45, 45, 32, 32, 22]),
]  # fmt: skip


def varied(name: str, changes: dict[str, Any]) -> tuple[Case, dict[str, Any]]:
    with opened(GOLDEN / f"{name}.npz") as (config, arrays):
        held = {key: arrays[key] for key in arrays}
    config |= changes
    return readers()[config["method"]](config, held), held


@pytest.mark.parametrize(
    ("name", "changes", "tokens"), COUNTS, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(COUNTS)]
)
def test_counts_are_those_the_authors_knobs_mean(
    name: str, changes: dict[str, Any], tokens: list[int]
) -> None:
    case, arrays = varied(name, changes)
    found = run(case, arrays)
    counts = found.attention + found.tokens.num_prefix
    np.testing.assert_array_equal(counts.numpy(), np.broadcast_to(tokens, counts.shape))
    assert bool(found.logits.isfinite().all())


def test_a_module_without_weights_is_no_obstacle_where_nothing_goes() -> None:
    case, arrays = varied("cropr_R8_nollf", {"pruned_per_module": [9, 0, 8, 8, 8]})
    held = {key: values for key, values in arrays.items() if "cropr.1." not in key}
    assert torch.equal(run(case, held).logits, run(case, arrays).logits)


def test_ats_points_hold_for_every_layer_whatever_arrives() -> None:
    case, arrays = varied("ats_K48_32_l24", {"layers": [1, 3, 4], "K_per_block": [50, 65, 20]})
    found = run(case, arrays)
    points = [reducer.points for reducer in found.model.reducers.values()]
    assert points == [49, 64, 19]
    assert bool((found.attention.diff(dim=1) <= 0).all())


def test_pitome_takes_any_margin_per_layer() -> None:
    case, arrays = varied("pitome_ratio0.9_default", {"margin": [0.5] * 6})
    margins = [reducer.margin for reducer in run(case, arrays).model.reducers.values()]
    assert margins == pytest.approx([0.5] * 6)


@torch.no_grad()
def test_a_stage_of_everybody_is_the_uncompressed_blocks() -> None:
    """Evo-ViT: where the stages end early, restored tokens run on without a new selection."""
    layers = (Reduction(1, num_keep=44), Reduction(2, num_keep=64))
    model = compress_backbone(tiny_vit(), CompressionConfig("evovit", layers))
    case, _ = varied(
        "evovit_stagewise_05",
        {"prune_ratio_per_layer": [1, 0.7, 1, 1, 1, 1], "edits": EDITS.format(1, 1)},
    )
    assert case.config.reductions == layers
    own = model(images())
    by_class = CompressionConfig("evovit", layers, {**case.config.options, "readout": "model"})
    torch.testing.assert_close(compress_backbone(tiny_vit(), by_class)(images()), own)


@pytest.mark.parametrize(
    ("edits", "layers"),
    [
        ("depth 12 -> 6: stage starts at blocks 2 and 4, stage ends at 3 and 5", [2, 4]),
        ("stage starts at blocks 1, 3 and 5, stage ends at 2, 4 and 5", [1, 3, 5]),
        ("stage starts at block 3, stage ends at block 5", [3]),
    ],
)
def test_stage_starts_are_read_from_the_words(edits: str, layers: list[int]) -> None:
    assert readers_adaptive.starts(edits) == layers


@pytest.mark.parametrize("name", ["ltmp_masked_a", "ltmp_infer_a", "ltmp_train"])
def test_ltmp_thresholds_beyond_their_range_remove_nothing(name: str) -> None:
    case, arrays = varied(name, {"merge_threshold": [2.0] * 6, "prune_threshold": [-1.0] * 6})
    held = {
        key: np.full_like(values, 1.0 if "merge" in key else 0.0) if "extra." in key else values
        for key, values in arrays.items()
    }
    found = run(case, held)
    alive = found.attention if found.tokens.mask is None else found.tokens.mask.sum(1)
    assert bool((alive == 64).all())
