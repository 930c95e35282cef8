"""Search with your own evaluation function through ask and tell.

Here the function compares the compressed model's logits with the original's on random images; put
your own data, metric or simulator in its place.
"""

import torch

import autotok
from autotok.backbones.tiny import tiny_vit

model = tiny_vit()
images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    original = model(images).argmax(dim=1)

study = autotok.AskTell(model, budget="60%", metric="agreement", seed=0)
for _ in range(12):
    candidate = study.ask()
    if candidate is None:
        break
    with torch.no_grad():
        same = study.compress(candidate)(images).argmax(dim=1) == original
    study.tell(candidate, 100.0 * same.float().mean().item(), num_images=len(images))

for record in study.front():
    print(
        f"{record.config.method:<8} keeps {record.counts} at layers {record.layers}:"
        f" {record.costs.macs / 1e6:.3f} MMACs, agreement {record.score.value:.1f} %"
    )
