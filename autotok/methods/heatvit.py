"""HeatViT: SPViT's selector with a package that is a weighted mean.

Dong, Sun, Lu, Xie, Liu, Kong, Meng, Li, Lin, Fang, Wang, "HeatViT: Hardware-Efficient Adaptive
Token Pruning for Vision Transformers", HPCA 2023, arXiv 2211.08110; no code was consulted.

Written from a description that carries the selector (per-head predictors, head weights, hard
Gumbel masks, one package token per stage) and the package: the mean of what is dropped at this
stage, weighted by the probability of staying.

Departures: everything else of the paper is missing, because the description does not carry it:
8-bit fixed-point arithmetic, the polynomial GELU and softmax, reuse on the FPGA, and the training
schedule that inserts selectors from the last block forward under a table of latencies. What SPViT's
file says about counts, masks and ratios holds here too.
"""

from __future__ import annotations

from .registry import register
from .spvit import SPViT


@register("heatvit")
class HeatViT(SPViT):
    """Keeps what SPViT's selector keeps; the package token is a weighted mean."""

    title = "HeatViT (HPCA 2023)"
    normalise_package = True
