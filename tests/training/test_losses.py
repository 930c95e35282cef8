"""Losses reproduce the authors' own code, and the ones without code their papers' formulas.

Golden files `kdlosses_*` and `prunelosses_*` hold random inputs and the values that the authors'
code gave; they are read from tests/golden and from the folder that AUTOTOK_GOLDEN_DIR names.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.errors import UnknownName
from autotok.methods import losses as method_losses
from autotok.methods.dynamicvit import DynamicViT
from autotok.methods.idlevit import IdleViT
from autotok.training import losses

GOLDEN = Path(__file__).parents[1] / "golden"
RTOL = 2e-5


def files(kind: str) -> list[Any]:
    extra = os.environ.get("AUTOTOK_GOLDEN_DIR")
    folders = [GOLDEN, Path(extra)] if extra else [GOLDEN]
    return [
        pytest.param(path, id=f"{path.stem}{'' if folder == GOLDEN else '-extra'}")
        for folder in folders
        for path in sorted(folder.glob(f"{kind}_*.npz"))
    ]


class Arrays:
    """A golden file: tensors by name, sequences by prefix, expected values, the config."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            self.arrays = {key: data[key] for key in data.files}
        self.config = json.loads(str(self.arrays["config"]))

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def every(self, prefix: str) -> list[Tensor]:
        names = [k for k in self.arrays if k.startswith(prefix) and k[len(prefix) :].isdigit()]
        return [self[k] for k in sorted(names, key=lambda k: int(k[len(prefix) :]))]


def close(got: Tensor | float, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=RTOL, atol=1e-7)


# --- distillation


def criterion(terms: dict[str, Tensor], ratio_sum: Tensor, stages: int) -> Tensor:
    """DynamicViT's loss as a fine-tune puts it together, from what the method declares."""
    weights = DynamicViT.recipe.losses
    assert terms.keys() == weights.keys()
    own = DynamicViT.ratio_weight / stages * ratio_sum
    return own + torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def dynamicvit(a: Arrays, mse: bool) -> dict[str, Tensor]:
    knobs = a.config["dynvit"]
    token = losses.token_mse if mse else losses.token_kl
    terms = {
        "ce": losses.cross_entropy(a["in.logits_s"], a["in.target"]),
        "soft": losses.soft(a["in.logits_s"], a["in.logits_t"]),
        "tokens": token(a["in.token_s"], a["in.token_t"], a["in.mask"].squeeze(-1)),
    }
    pairs = zip(a.every("in.dyn_score."), knobs["keep_ratio"], strict=True)
    ratio = torch.stack([method_losses.dynamicvit_ratio(*pair) for pair in pairs]).sum()
    assert DynamicViT.ratio_weight == knobs["ratio_weight"]
    return {
        "total": criterion(terms, ratio, len(knobs["keep_ratio"])),
        "ratio_sum": ratio,
        "cls_kl": terms["soft"],
        "token": terms["tokens"],
    }


def frd(a: Arrays) -> tuple[Tensor, Tensor]:
    """SiT's logit and dense token terms (arXiv 2111.11962), weights included."""
    weight, temperature = a.config["lambda_token"], a.config["T"]
    pairs = zip(a.every("in.frd_tokens_s."), a.every("in.frd_tokens_t."), strict=True)
    dense = torch.stack([F.mse_loss(mine, theirs) for mine, theirs in pairs]).mean()
    kl = losses.soft(a["in.logits_s"], a["in.logits_t"], temperature=temperature)
    return a.config["lambda_logits"] * kl, weight * dense


def every_kd_loss(a: Arrays) -> dict[str, Tensor]:
    s, t, labels = a["in.logits_s"], a["in.logits_t"], a["in.target"]
    knobs, temperature = a.config, a.config["T"]
    tckd, nckd = losses.dkd_parts(s, t, labels, temperature=temperature)
    student, teacher = (tuple(a[f"in.{n}_{who}"] for n in "qkv") for who in "st")
    qk, vv = losses.relation_parts(student, teacher)  # type: ignore[arg-type]
    logits, tokens = frd(a)
    ce = losses.cross_entropy(s, labels)
    found = {
        "frd_total": ce + logits + tokens,
        "frd_cls": ce,
        "frd_token": tokens,
        "frd_logits": logits,
        "deit_soft": losses.deit_soft(s, t, temperature=temperature),
        "dkd": losses.dkd(
            s,
            t,
            labels,
            temperature=temperature,
            alpha=knobs["dkd_alpha"],
            beta=knobs["dkd_beta"],
        ),
        "dkd_tckd": tckd,
        "dkd_nckd": nckd,
        "tinymim_qk": qk,
        "tinymim_vv": vv,
    }
    for name, mse in (("kl", False), ("mse", True)):
        found |= {f"dynvit_{name}_{k}": v for k, v in dynamicvit(a, mse).items()}
    return found


@pytest.mark.parametrize("path", files("kdlosses"))
def test_every_distillation_loss_equals_the_authors(path: Path) -> None:
    arrays = Arrays(path)
    found = every_kd_loss(arrays)
    expected = {k.removeprefix("out."): v for k, v in arrays.arrays.items() if k[:4] == "out."}
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value.item(), expected[name], rtol=RTOL, err_msg=name)


# --- training terms of pruning methods


@pytest.mark.parametrize("mse", [True, False])
@pytest.mark.parametrize("path", files("prunelosses"))
def test_dynamicvits_criterion_equals_the_authors(path: Path, mse: bool) -> None:
    a = Arrays(path)
    masks = a.every("mask")
    token = losses.token_mse if mse else losses.token_kl
    terms = {
        "ce": losses.cross_entropy(a["pred"], a["labels"]),
        "soft": losses.soft(a["pred"], a["teacher_logits"]),
        "tokens": token(a["token_pred"], a["teacher_tokens"], masks[-1]),
    }
    pairs = zip(masks, a.config["keep"], strict=True)
    ratio = torch.stack([method_losses.dynamicvit_ratio(*pair) for pair in pairs]).sum()
    total = criterion(terms, ratio, len(a.config["keep"]))
    found = [total, terms["ce"], ratio, terms["soft"], terms["tokens"]]
    close(torch.stack(found), a.arrays[f"dynamicvit.mse_token={mse}"])


@pytest.mark.parametrize("kind", ["both", "intra", "inter"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("path", files("prunelosses"))
def test_idlevits_loss_equals_the_authors(path: Path, skip: bool, kind: str) -> None:
    a = Arrays(path)
    attention = a.every("idle.attn")
    masks = [mask.squeeze(-1) for mask in a.every("idle.mask")]
    step = 2 if skip else 1
    pairs = zip(attention[::step], masks[::step], strict=True)
    inter, intra = sum(method_losses.idlevit_cut(*pair) for pair in pairs)
    cut = {"both": inter + intra, "inter": inter, "intra": intra}[kind]
    ce = losses.cross_entropy(a["pred"], a["labels"])
    kl = losses.soft(a["pred"], a["teacher_logits"])
    features = method_losses.idlevit_features(a["idle.feat"], a["idle.feat_teacher"])
    options, soft = IdleViT.resolve_options({}), IdleViT.recipe.losses["soft"]
    distilled = soft * kl + float(options["feature_weight"]) * features
    total = ce + float(options["cut_weight"]) / len(attention) * cut
    total = total + 10.0 / soft * distilled  # the file has w_d 10, as the README; the code 5
    name = "idlevit" if skip else "idlevit_all_layers"
    close(torch.stack([total, ce, cut, kl, features]), a.arrays[f"{name}.{kind}"])


@pytest.mark.parametrize("path", files("prunelosses"))
def test_evits_keep_rate_falls_as_published(path: Path) -> None:
    a = Arrays(path)
    for epoch, expected in a.arrays["evit.keep_rate_schedule"]:
        got = method_losses.keep_rate_at(epoch, base=a.config["keep"][0], start=10, length=100)
        close(got, expected)


@pytest.mark.parametrize("path", files("prunelosses"))
def test_asvits_mask_and_its_gradients_equal_the_authors(path: Path) -> None:
    a = Arrays(path)
    words = a.config["asvit"].replace(",", " ").replace(";", " ").split()
    threshold = torch.tensor(float(words[words.index("threshold") + 1]), requires_grad=True)
    scores = a["asvit.score"].requires_grad_()
    tau = float(words[words.index("tau") + 1])
    mask = method_losses.straight_through_mask(scores, threshold, tau=tau)
    mask.sum().backward()
    assert scores.grad is not None
    assert threshold.grad is not None
    close(mask.detach(), a.arrays["asvit.ste_mask"])
    close(scores.grad, a.arrays["asvit.grad_score"])
    close(threshold.grad, a.arrays["asvit.grad_threshold"])


# --- by hand, where no code was published


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_soft_is_zero_for_equal_logits_and_scales_with_the_squared_temperature() -> None:
    s, t = random(4, 10), random(4, 10, seed=1)
    assert losses.soft(s, s).item() == pytest.approx(0.0, abs=1e-6)
    by_hand = sum(
        4.0 * (F.softmax(t[b] / 2, -1) * (F.softmax(t[b] / 2, -1) / F.softmax(s[b] / 2, -1)).log())
        .sum()
        .item()
        for b in range(4)
    )  # fmt: skip
    assert losses.soft(s, t, temperature=2.0).item() == pytest.approx(by_hand / 4, rel=1e-5)


def test_standardised_is_soft_between_z_scores_and_blind_to_shift_and_scale() -> None:
    arrays = Arrays(GOLDEN / "kdlosses_A.npz")
    s, t = (arrays[f"in.logits_{who}"].double() for who in "st")
    got = losses.standardised(s, t, temperature=2.0)
    scores = [(x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) / 2 for x in (s, t)]
    mine, theirs = (F.softmax(x, -1) for x in scores)
    by_hand = 4 * (theirs * (theirs / mine).log()).sum(-1).mean()
    torch.testing.assert_close(got, by_hand, rtol=1e-5, atol=0)
    moved = losses.standardised(3 * s + 1, 0.5 * t - 2, temperature=2.0)
    torch.testing.assert_close(moved, got, rtol=1e-5, atol=0)


def test_nkd_weighs_the_label_by_the_teacher_and_compares_the_others_by_themselves() -> None:
    arrays = Arrays(GOLDEN / "kdlosses_A.npz")
    s, t, labels = (arrays[f"in.{name}"] for name in ("logits_s", "logits_t", "target"))
    by_hand, warmth, gamma = 0.0, 2.0, 1.5
    for mine, theirs, label in zip(s.double(), t.double(), labels, strict=True):
        by_hand -= (F.softmax(theirs, 0)[label] * F.softmax(mine, 0)[label].log()).item()
        rest = [i for i in range(len(mine)) if i != label]
        wanted, given = (F.softmax(x[rest] / warmth, 0) for x in (theirs, mine))
        by_hand -= gamma * warmth**2 * (wanted * given.log()).sum().item()
    got = losses.nkd(s, t, labels, temperature=warmth)
    assert got.item() == pytest.approx(by_hand / len(s), rel=1e-5)


def test_hard_is_cross_entropy_with_the_teachers_decision() -> None:
    s, t = torch.zeros(2, 4), torch.eye(4)[:2]
    assert losses.hard(s, t).item() == pytest.approx(math.log(4))


def test_cosine_ignores_scale() -> None:
    t = random(3, 8)
    assert losses.cosine(5 * t, t).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.cosine(-t, t).item() == pytest.approx(2.0, rel=1e-6)


def test_mimic_sums_squares_over_layers_and_divides_by_images() -> None:
    zero, one = torch.zeros(2, 5, 3), torch.ones(2, 5, 3)
    assert losses.mimic([one, 2 * one], [zero, zero]).item() == pytest.approx(3e-5 * 15 * 5)


def test_no_distillation_loss_sends_a_gradient_to_the_teacher() -> None:
    t = random(3, 4).requires_grad_()
    s, labels = random(3, 4, seed=1).requires_grad_(), torch.tensor([0, 1, 2])
    total = losses.soft(s, t) + losses.deit_soft(s, t) + losses.hard(s, t)
    total = total + losses.dkd(s, t, labels) + losses.cosine(s, t)
    total = total + losses.nkd(s, t, labels) + losses.standardised(s, t)
    total.backward()
    assert t.grad is None
    assert s.grad is not None


def test_alignment_gathers_for_pruning_and_averages_for_merging() -> None:
    teacher = random(1, 5, 2)  # one prefix token, four patches
    pruned = torch.zeros(1, 2, 4, dtype=torch.bool)
    pruned[0, 0, 2] = pruned[0, 1, 0] = True
    torch.testing.assert_close(
        losses.align(teacher, pruned, 1), teacher[:, torch.tensor([0, 3, 1])]
    )
    merged = torch.tensor([[[True, True, False, False], [False, False, False, True]]])
    got = losses.align(teacher, merged, 1)
    torch.testing.assert_close(got[0, 1], teacher[0, 1:3].mean(0))
    heads = teacher.unsqueeze(1).expand(1, 3, 5, 2)
    torch.testing.assert_close(losses.align(heads, merged, 1), got.unsqueeze(1).expand(1, 3, 3, 2))


def test_tofe_averages_over_frozen_tokens_and_takes_stages_without_any() -> None:
    mine, theirs = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    some = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    kept = torch.ones(2, 3)
    assert method_losses.tofe_approximation(mine, theirs, some).item() == pytest.approx(2.0)
    assert method_losses.tofe_approximation(mine, theirs, kept).item() == 0.0
    costs = torch.tensor([[1.0, 2.0], [2.0, 2.0]])
    assert method_losses.tofe_flops(costs, 3.0).item() == pytest.approx(0.5)


def test_an_unknown_loss_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'soft'"):
        losses.get_loss("sofd")
