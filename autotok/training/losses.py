"""Training and distillation losses by name: pure functions of tensors, and a small registry.

Shapes: B images, C classes, n tokens, D channels, H heads, d head width. `student` comes first,
`teacher` second; the teacher never gets a gradient. Sums, means and factors follow the papers'
code, which differ from each other by orders of magnitude: weights are not comparable across losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.errors import UnknownName
from autotok.methods.losses import self_distillation

# both as published with ViTKD: deeper layers are generated there, not imitated
MIMIC_FACTOR = 3e-5
MIMIC_LAYERS = (0, 1)


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (B, C) with labels (B,): `ce`.

    -log softmax(s)[y], y smoothed to (1 - a) onehot + a / C.
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def soft(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 * mean over images of KL(softmax(t / T) || softmax(s / T)): `soft`.

    Hinton et al. 2015, arXiv 1503.02531, in the batch-mean form of SiT and DynamicViT. Logits
    (B, C).
    """
    return self_distillation(student, teacher, temperature=temperature)


def deit_soft(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The sum of `soft` divided by B * C instead of B: `deit_soft`.

    As in DeiT's code (Touvron et al., ICML 2021, arXiv 2012.12877); a factor C smaller than `soft`.
    """
    return soft(student, teacher, temperature=temperature) / student.shape[-1]


def standardised(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`soft` of logits (B, C) that are standardised image by image: `standardised`.

    Mean 0 and standard deviation 1 (of C - 1) on both sides, so that the student learns how the
    teacher orders the classes, not how large its logits are. Sun et al., CVPR 2024, arXiv
    2403.01427; there at T = 2, with a weight of 9 beside 0.1 of cross-entropy.
    """
    return soft(_z_scores(student), _z_scores(teacher), temperature=temperature)


def _z_scores(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return centred / (logits.std(dim=-1, keepdim=True) + 1e-7)


def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, C) with the teacher's argmax: `hard` (DeiT)."""
    return F.cross_entropy(student, teacher.argmax(dim=-1))


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.5,
) -> Tensor:
    """alpha * TCKD + beta * NCKD, of logits (B, C) and labels (B,): `dkd`.

    Zhao et al., CVPR 2022, arXiv 2203.08679; code megvii-research/mdistiller. See `dkd_parts`.
    """
    target, others = dkd_parts(student, teacher, labels, temperature=temperature)
    return alpha * target + beta * others


def dkd_parts(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD), each T^2 * a batch mean.

    TCKD is the KL divergence between the binary probabilities (target, everything else); NCKD the
    one between softmaxes whose target logit was lowered by 1000.
    """
    student, teacher = student / temperature, teacher.detach() / temperature
    target = F.one_hot(labels, student.shape[-1]).bool()  # (B, C)
    factor = temperature**2 / student.shape[0]
    binary = []
    for logits in (student, teacher):
        log_p = logits.log_softmax(dim=-1)
        rest = log_p.masked_fill(target, -torch.inf).logsumexp(dim=-1)
        binary.append(torch.stack([log_p[target], rest], dim=-1))  # (B, 2)
    tckd = F.kl_div(binary[0], binary[1], reduction="sum", log_target=True)
    lowered = [(x - 1000.0 * target).log_softmax(dim=-1) for x in (student, teacher)]
    nckd = F.kl_div(lowered[0], lowered[1], reduction="sum", log_target=True)
    return factor * tckd, factor * nckd


def nkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    gamma: float = 1.5,
) -> Tensor:
    """-t_y log s_y - gamma T^2 sum over the others of t' log s', batch means: `nkd`.

    s and t are the softmaxes at temperature 1, s' and t' those over all classes but the label's, at
    T; logits (B, C), labels (B,). Yang et al., ICCV 2023, arXiv 2303.13005, eq. 7 and 8; gamma 1.5
    and T 1 as in their code. That code, as released, keeps the label's class in s' and t'; here it
    is left out, as the paper has it.
    """
    at_label = labels.unsqueeze(-1)  # (B, 1)
    log_s, log_t = student.log_softmax(dim=-1), teacher.detach().log_softmax(dim=-1)
    target = -(log_t.gather(-1, at_label).exp() * log_s.gather(-1, at_label)).mean()
    others = ~F.one_hot(labels, student.shape[-1]).bool()
    rest_s, rest_t = (
        (x[others].view(len(x), -1) / temperature).log_softmax(dim=-1)
        for x in (student, teacher.detach())
    )
    return target - gamma * temperature**2 * (rest_t.exp() * rest_s).sum(dim=-1).mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images of 1 - cos(student, teacher) of the models' outputs (B, C): `cosine`.

    For headless models, whose output is features; scale-free, as their use by similarity is.
    """
    return (1.0 - F.cosine_similarity(student, teacher.detach(), dim=-1)).mean()


def mimic(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """3e-5 / B * sum over layers and elements of (s - t)^2, features (B, N, D) each: `mimic`.

    The shallow part of ViTKD (Yang et al. 2022, arXiv 2209.02432; code yzd-v/cls_KD): the first two
    blocks, the student's features through one Linear per layer where widths differ.
    """
    total = student[0].new_zeros(())
    for mine, theirs in zip(student, teacher, strict=True):
        total = total + (mine - theirs.detach()).square().sum()
    return MIMIC_FACTOR * total / student[0].shape[0]


def relation(left: Tensor, right: Tensor) -> Tensor:
    """(B, H, N, N) logs of softmax(left right^T / sqrt(d)) of two (B, H, N, d)."""
    scale: float = left.shape[-1] ** -0.5
    return (left @ right.transpose(-2, -1) * scale).log_softmax(dim=-1)


def relations(
    student: tuple[Tensor, Tensor, Tensor], teacher: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """KL(teacher || student) of Q-K and of V-V relations, means over (B, H, rows): `relations`.

    TinyMIM (Ren et al., CVPR 2023, arXiv 2301.01296). Each is (queries, keys, values), (B, H, N,
    d), over the same tokens; d may differ, H may not. See `relation_parts`. A fine-tune takes those
    of the last block of either model; the authors, of a teacher of 24 blocks, the 18th.
    """
    qk, vv = relation_parts(student, teacher)
    return qk + vv


def relation_parts(
    student: tuple[Tensor, Tensor, Tensor], teacher: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """(Q-K term, V-V term) of `relations`."""
    terms = []
    for left, right in ((0, 1), (2, 2)):
        log_s = relation(student[left], student[right])
        log_t = relation(teacher[left].detach(), teacher[right].detach())
        terms.append((log_t.exp() * (log_t - log_s)).sum(dim=-1).mean())
    return terms[0], terms[1]


def token_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over the live tokens' channels, features (B, n, D), mask (B, n): `tokens`.

    DynamicViT (Rao et al., NeurIPS 2021, arXiv 2106.02034), the form for DeiT.
    """
    student, teacher = _live(student, teacher, mask)
    return F.mse_loss(student, teacher) if len(student) else student.sum()  # nobody left: 0


def token_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over live tokens of KL between softmaxes over channels: `tokens_kl`.

    DynamicViT's form for LV-ViT.

    Features (B, n, D), mask (B, n).
    """
    student, teacher = (x.log_softmax(dim=-1) for x in _live(student, teacher, mask))
    if not len(student):
        return student.sum()
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _live(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens whose mask is 1, laid end to end: (m, D) each."""
    live = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    if mask is not None:
        live = mask.reshape(live.shape) > 0.5
    return student[live], teacher.detach()[live]


def align(teacher: Tensor, source: Tensor | None, num_prefix: int) -> Tensor:
    """Teacher features (..., P + N0, D) as the student holds them, (..., P + n, D).

    A token of the student stands for the mean of the patches it holds, `source` (B, n, N0): pruning
    gathers, merging averages. Without a source there is nothing to align.
    """
    if source is None:
        return teacher
    share = source.to(teacher.dtype)
    share = share / share.sum(dim=-1, keepdim=True).clamp_min(1.0)
    if teacher.dim() == 4:  # heads
        share = share.unsqueeze(1)
    prefix, patches = teacher[..., :num_prefix, :], teacher[..., num_prefix:, :]
    return torch.cat([prefix, share @ patches], dim=-2)


@dataclass(frozen=True)
class Loss:
    """A loss that a fine-tune can name."""

    name: str
    meaning: str
    labels: bool = False
    """Needs labelled images."""
    teacher: bool = True
    """Needs an uncompressed model to learn from."""
    classes: bool = True
    """Reads logits, so a model without a head cannot use it."""
    inside: bool = False
    """Reads values inside the model, not its output alone."""
    exits: bool = False
    """Reads what a model's exits say."""


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("ce", "cross-entropy with the labels", labels=True, teacher=False),
        Loss("soft", "KL divergence to the teacher's logits, mean over images"),
        Loss("deit_soft", "the same, divided by the number of classes as DeiT does"),
        Loss("standardised", "soft between standardised logits (Sun et al. 2024)"),
        Loss("hard", "cross-entropy with the teacher's decision"),
        Loss("dkd", "decoupled logit distillation (DKD)", labels=True),
        Loss("nkd", "normalised logit distillation (NKD)", labels=True),
        Loss("cosine", "cosine distance between the models' outputs", classes=False),
        Loss("mimic", "features of the first two blocks (ViTKD)", classes=False, inside=True),
        Loss("relations", "attention relations (TinyMIM)", classes=False, inside=True),
        Loss("tokens", "final tokens (DynamicViT, DeiT)", classes=False, inside=True),
        *(
            Loss(f"exits_{name}", meaning, labels=True, teacher=False, exits=True)
            for name, meaning in (
                ("normal", "mean cross-entropy of exits and end"),
                ("weighted", "the same, weighted by depth (LGViT)"),
                ("alternating", "the end and exits_normal in turn"),
                ("alternating_weighted", "the end and exits_weighted in turn"),
            )
        ),
        Loss("exits_distill", "heads of a frozen model, by its answers", teacher=False, exits=True),
        Loss("tokens_kl", "the same by KL (DynamicViT, LV-ViT)", classes=False, inside=True),
    )
}


def get_loss(name: str) -> Loss:
    """The loss of a name, or `UnknownName`."""
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES)
    return LOSSES[name]
