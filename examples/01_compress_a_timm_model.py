"""Compress a timm model in three lines, and see what it costs.

Random weights, so that it runs without a download; give `pretrained=True` for real ones.
"""

import autotok  # import it first: it lets timm load beside a CPU-only torch
from autotok.backbones.timm_vit import timm

model = timm.create_model("deit_tiny_patch16_224", num_classes=10).eval()
compressed = autotok.compress(model, method="tome", r=8)
print(f"{autotok.macs(model).macs_g:.3f} -> {autotok.macs(compressed).macs_g:.3f} GMACs")

pruned = autotok.compress(model, method="topk", keep={3: 0.7, 6: 0.5, 9: 0.35})
print(f"patch tokens after each reduction: {pruned.schedule.kept}")
