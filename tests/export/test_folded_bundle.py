"""A bundle of folded weights is whole without the adapters that were folded in."""

import dataclasses
from pathlib import Path

import torch
from exporting import images, made
from safetensors.torch import save_file

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone, reconfigured
from autotok.compression.folding import pinned
from autotok.config import CompressionConfig, Reduction
from autotok.export.bundle import load_bundle, load_uncompressed, save_bundle
from autotok.methods.tocom import Adapters


@torch.inference_mode()
def test_a_bundle_holds_folded_weights_only_and_needs_no_adapters(tmp_path: Path) -> None:
    path, generator = tmp_path / "adapters.safetensors", torch.Generator().manual_seed(2)
    born = Adapters(tiny_backbone().facts, group_width=1)
    save_file({n: torch.randn(w.shape, generator=generator) for n, w in born.named()}, path)
    reductions = (Reduction(0, num_keep=13), Reduction(2, num_keep=8))
    chosen = pinned(CompressionConfig("tocom", reductions, {"adapters": str(path)}))
    model = compress_backbone(tiny_backbone(), chosen).eval()
    tome = compress_backbone(tiny_backbone(), CompressionConfig("tome", reductions))
    expected = model(images())
    assert not torch.allclose(expected, tome(images()), atol=1e-2)
    bundle = dataclasses.replace(made()[1], config=chosen)
    results = save_bundle(tmp_path / "best", model, bundle, images(), formats=("torchscript",))
    assert results["exports"]["torchscript"]["ok"]
    path.unlink()
    assert not (tmp_path / "best" / "reducers.safetensors").exists()
    back = load_bundle(tmp_path / "best")
    assert torch.equal(back(images()), expected)
    assert back.is_folded
    assert torch.equal(reconfigured(back, back.config)(images()), expected)
    for name in ("adapters_sha256", "scale", "group_width"):
        assert back.config.options[name] == chosen.options[name]
    whole = load_uncompressed(tmp_path / "best")
    assert torch.equal(whole(images()), tiny_backbone()(images()))
