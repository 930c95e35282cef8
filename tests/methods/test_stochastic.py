import torch

from autotok.methods.stochastic import hard_gumbel


def test_samples_are_one_hot_and_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    sample = hard_gumbel(torch.tensor([0.8, 0.2]).log().expand(20000, 2))
    assert set(sample.unique().round(decimals=5).tolist()) == {0.0, 1.0}
    assert abs(float(sample[:, 0].mean()) - 0.8) < 0.02


def test_gradient_is_that_of_the_soft_sample() -> None:
    torch.manual_seed(0)
    log_probs = torch.zeros(6, 2, requires_grad=True)
    hard_gumbel(log_probs.log_softmax(-1))[:, 0].sum().backward()
    assert log_probs.grad is not None
    assert bool((log_probs.grad[:, 0] > 0).all())


def test_half_precision_is_kept_and_finite() -> None:
    torch.manual_seed(0)
    sample = hard_gumbel(torch.full((4096, 2), -0.7, dtype=torch.bfloat16))
    assert sample.dtype is torch.bfloat16
    assert bool(sample.isfinite().all())
