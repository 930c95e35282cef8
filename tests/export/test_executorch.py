"""ExecuTorch programs say what torch says, and a missing package is one sentence."""

import sys
from pathlib import Path

import pytest
import torch
from exporting import made, photos

from autotok.backbones.loading import as_backbone
from autotok.backbones.timm_vit import VisionTransformer
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.devices.device import LocalDevice
from autotok.errors import ExportError
from autotok.export.executorch import ExecuTorch
from autotok.export.exported import export_model
from autotok.export.formats import FORMATS, check_format
from autotok.export.readme import readme


@pytest.fixture
def model() -> CompressedViT:
    """ToMe in the first of two blocks: the second sees what it did; skips without ExecuTorch."""
    pytest.importorskip("executorch", reason="needs pip install 'autotok[executorch]'")
    pytest.importorskip("torchao", reason="executorch is here without what it needs")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=10
        )
        torch.nn.init.normal_(vit.head.weight)
    config = CompressionConfig("tome", (Reduction(0, num_keep=9),))
    return compress_backbone(as_backbone(vit), config).eval()


def test_a_missing_package_is_one_sentence_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    for name in [name for name in sys.modules if name.startswith("executorch.")]:
        monkeypatch.delitem(sys.modules, name)
    for ask in (check_format, LocalDevice):  # a search makes its device before it begins
        with pytest.raises(ExportError, match=r"pip install 'autotok\[executorch\]'"):
            ask("executorch")


def test_the_readme_of_a_bundle_says_how_its_program_is_run() -> None:
    found = {
        "path": "model.pte", "precision": "float32", "batch": 1, "size_mb": 0.5, "ok": True,
        "num_images": 3, "checked_on": "images", "max_abs_diff": 1e-6,
    }  # fmt: skip
    text = readme(made()[1], {"executorch": found}, False)
    assert "`model.pte`: float32, batch 1" in text
    assert 'Runtime.get().load_program("model.pte").load_method("forward")' in text
    assert "load_program" not in readme(made()[1], {}, False)


def test_what_the_runtime_has_no_kernel_of_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExecuTorch, "takes", lambda self, operator: operator != "aten::odd.out")
    with pytest.raises(ExportError, match=r"its runtime has no kernel of aten::odd\.out; try"):
        ExecuTorch().check_calls({"aten::even.out": 2, "aten::odd.out": 1})


@pytest.mark.slow
def test_a_program_agrees_with_torch_and_lists_what_it_calls(
    tmp_path: Path, model: CompressedViT
) -> None:
    check_format("executorch")
    path, images = tmp_path / "m.pte", photos()[..., :16, :16]
    result = export_model(model, path, images, format="executorch", dynamic_batch=True)
    assert (result.ok, result.batch, result.risky_operators) == (True, 1, ())
    assert result.notes == ("a dynamic batch could not be exported; it is fixed at 1",)
    assert result.max_rel_diff < 1e-5
    assert result.operators["XnnpackBackend"] > 2
    assert result.runtime.startswith("executorch ")
    opened = FORMATS.get("executorch").open(path, torch.device("cpu"))
    with torch.inference_mode():
        torch.testing.assert_close(opened(images[1:2]), model(images[1:2]), atol=1e-4, rtol=0)
