"""METR: EViT with classifiers on early class tokens, in training only."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import load_bundle, save_bundle
from autotok.methods.learning import Learning, LossContext
from autotok.methods.metr import METR
from autotok.searching.space.space_file import load_space

LABELS = torch.tensor([0, 1, 2, 3])


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def model(name: str = "metr", **options: Primitive) -> CompressedViT:
    reductions = (Reduction(1, num_keep=9), Reduction(2, num_keep=4))
    return compress_backbone(tiny_backbone(), CompressionConfig(name, reductions, options))


def loss(made: CompressedViT) -> torch.Tensor:
    """Cross-entropy and every head's share, of one training forward."""
    tokens = made.train().forward_tokens(images())
    logits = made.backbone.readout(tokens)
    context = LossContext(tokens, logits, LABELS)
    own = [r.extra_loss(context) for r in made.reducers.values() if isinstance(r, METR)]
    total = F.cross_entropy(logits, LABELS)
    return total + sum((term for term in own if term is not None), torch.zeros(()))


@pytest.mark.parametrize("name", ["metr", "cropr"])
def test_heads_learn_from_the_same_smoothed_labels_as_the_model(name: str) -> None:
    made = model(name).train()
    tokens = made.forward_tokens(images())
    logits, heads = made.backbone.readout(tokens), list(made.reducers.values())
    seen = [head.seen.clone() if isinstance(head, METR) else None for head in heads]
    assert all(isinstance(head, Learning) for head in heads)

    def share(smoothing: float) -> float:
        for head, token in zip(heads, seen, strict=True):
            if isinstance(head, METR):
                head.seen = token
        context = LossContext(tokens, logits, LABELS, label_smoothing=smoothing)
        return sum(head.extra_loss(context).item() for head in heads)  # type: ignore[operator,union-attr]

    assert share(0.3) != pytest.approx(share(0.0), rel=1e-4)


def gradients(made: CompressedViT) -> dict[str, torch.Tensor]:
    loss(made).backward()
    named = made.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@torch.no_grad()
def test_what_is_deployed_is_evit_to_the_bit() -> None:
    deployed = model().deploy().eval()
    assert torch.equal(deployed(images()), model("evit").eval()(images()))
    assert not list(deployed.reducers.state_dict())


@torch.no_grad()
def test_the_heads_change_no_answer() -> None:
    assert torch.equal(model().eval()(images()), model("evit").eval()(images()))


def test_bundles_hold_no_heads(tmp_path: Path) -> None:
    made = model().eval()
    bundle = Bundle(BackboneRef.of(made.backbone.facts, name="tiny"), made.config, {})
    save_bundle(tmp_path / "best", made, bundle, images(), formats=("torchscript",))
    again = load_bundle(tmp_path / "best")
    graph = torch.jit.load(str(next((tmp_path / "best").glob("model.*"))))
    for held in (again.state_dict(), graph.state_dict()):
        assert not [name for name in held if name.startswith("reducers") or "mid_heads" in name]
    assert torch.equal(again(images()), model("evit").eval()(images()))


def test_without_weights_the_gradients_are_evits() -> None:
    silent = gradients(model(head_weight=0.0, distill_weight=0.0))
    plain = gradients(model("evit"))
    own = {name: grad for name, grad in silent.items() if name.startswith("backbone")}
    assert own.keys() == plain.keys()
    assert all(torch.equal(own[name], plain[name]) for name in plain)
    assert not any(grad.any() for name, grad in silent.items() if name not in plain)


def test_a_head_learns_from_its_own_terms_only() -> None:
    made = model()
    tokens = made.train().forward_tokens(images())
    context = LossContext(tokens, made.backbone.readout(tokens), LABELS)
    first, second = (r for r in made.reducers.values() if isinstance(r, METR))
    own = first.extra_loss(context)
    assert own is not None
    own.backward(retain_graph=True)
    assert all(p.grad is not None and p.grad.any() for p in first.parameters())
    assert all(p.grad is None for p in second.parameters())


def test_the_final_answer_is_not_pulled_towards_the_heads() -> None:
    made = model(head_weight=0.0)
    tokens = made.train().forward_tokens(images())
    context = LossContext(tokens, made.backbone.readout(tokens), LABELS)
    for reducer in made.reducers.values():
        assert isinstance(reducer, METR)
        term = reducer.extra_loss(context)
        assert term is not None
        term.backward(retain_graph=True)
    weights = dict(made.backbone.named_parameters())
    head = next(p for name, p in weights.items() if name.endswith("head.weight"))
    assert head.grad is None


def test_without_labels_the_heads_learn_from_the_final_answer_alone() -> None:
    made = model(temperature=2.0, distill_weight=1.0)
    watch = TapRequest(after=frozenset({1}))
    tokens = made.train().forward_tokens(images(), watch=watch)
    logits = made.backbone.readout(tokens)
    reducer = made.reducers["1"]
    assert isinstance(reducer, METR)
    assert reducer.head is not None
    early = reducer.head(watch.tokens[1].x[:, 0])
    wanted, given = (logits / 2).softmax(-1), (early / 2).log_softmax(-1)
    by_hand = 4 * (wanted * (wanted.log() - given)).sum(-1).mean()
    term = reducer.extra_loss(LossContext(tokens, logits))
    assert term is not None
    torch.testing.assert_close(term, by_hand)


def test_the_uncompressed_models_answer_may_be_the_target() -> None:
    made = model(target="uncompressed", head_weight=0.0, distill_weight=1.0)
    reducer = made.reducers["1"]
    assert isinstance(reducer, METR)
    assert reducer.teacher_layers() == {1}
    watch = TapRequest(after=frozenset({1}))
    tokens = made.train().forward_tokens(images(), watch=watch)
    logits, theirs = made.backbone.readout(tokens), torch.randn(4, 10)
    assert reducer.head is not None
    early = reducer.head(watch.tokens[1].x[:, 0])
    term = reducer.extra_loss(LossContext(tokens, logits, LABELS, teacher_logits=theirs))
    expected = F.kl_div(
        early.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True
    )
    assert term is not None
    torch.testing.assert_close(term, expected)


@pytest.mark.parametrize("theirs", [None, torch.randn(4, 7)])
def test_a_target_without_a_fitting_teacher_is_said(theirs: torch.Tensor | None) -> None:
    made = model(target="uncompressed")
    tokens = made.train().forward_tokens(images())
    reducer = made.reducers["1"]
    assert isinstance(reducer, METR)
    context = LossContext(tokens, made.backbone.readout(tokens), LABELS, teacher_logits=theirs)
    with pytest.raises(ConfigError, match=r"method 'metr' is 'uncompressed', .* of 10 classes"):
        reducer.extra_loss(context)


def test_the_plain_target_asks_for_no_teacher() -> None:
    for reducer in model().reducers.values():
        assert isinstance(reducer, METR)
        assert reducer.teacher_layers() == frozenset()


@torch.no_grad()
def test_a_repeated_count_fuses_the_last_token_alone() -> None:
    reductions = (Reduction(1, num_keep=9), Reduction(2, num_keep=9))
    still = CompressionConfig("metr", reductions)
    alone = CompressionConfig("metr", reductions, {"count_schedule": True})
    idle, acting = (compress_backbone(tiny_backbone(), c).eval() for c in (still, alone))
    assert not torch.allclose(idle(images()), acting(images()))
    tokens = acting.forward_tokens(images())
    assert tokens.num_patches == 9
    assert cost(acting.backbone.facts, alone).macs == count_macs(acting)
    assert cost(acting.backbone.facts, alone).macs > cost(idle.backbone.facts, still).macs


def test_what_precedes_the_first_reduction_is_the_uncompressed_models() -> None:
    assert model().eval().unaltered_blocks() == 1


def test_searches_that_are_not_told_leave_it_to_evit() -> None:
    methods = load_space("default").candidates(tiny_backbone().facts)
    assert "evit" in methods
    assert "metr" not in methods
