"""SuperViT: one set of weights for several image sizes and several keep rates.

Lin, Chen, Zhang, Shen, Ji, Cao, "Super Vision Transformer", IJCV 2023, arXiv 2205.11397; code
lmbxmu/SuperViT.

Between attention and MLP the patch tokens that the class token attends to most stay, by falling
score: Top-K, with a count of its own. What makes it SuperViT is the backbone: every image size has
its position table, all else is shared, and `autotok.train_sizes` trains a few pairs of size and
rate on every batch, each pruned one towards its own unpruned counterpart. Any pair runs without
retraining, so a search over image sizes and keep ratios tries them all on one file of weights.

Departures: all prefix tokens are protected; where the class token is unsupervised or missing,
attention column means stand in (option `score`). A keep ratio counts from the initial patches of
the image's own grid; the authors' rate, of the tokens that enter a layer with the class token
counted, is `author_units.from_stage_ratios`. Plain ViTs of timm hold the tables; the authors'
LV-ViT, with token labels, is not trained here. The paper's several patch sizes are, as in its code,
several image sizes.
"""

from __future__ import annotations

from .registry import register
from .topk import TopK


@register("supervit")
class SuperViT(TopK):
    """Top-K on a backbone that has a position table, and was trained, for every image size."""

    title = "SuperViT (IJCV 2023)"
    same_untrained = "topk"
    rounding = "ceil"
