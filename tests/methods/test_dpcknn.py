import numpy as np
import torch
from hand import reducer, tokens

from autotok.methods import get_method
from autotok.methods.dpcknn import DPCKNN, density_peaks
from autotok.testing import synthetic_facts
from autotok.tokens import Taps

LINE = torch.tensor([[0.0], [1], [2], [20], [21], [22]])


def test_clusters_form_around_the_densest_tokens_far_from_each_other() -> None:
    centres, assignment = density_peaks(LINE[None], 2, 3)
    assert sorted(centres[0].tolist()) == [1, 4]
    left, right = (centres[0].tolist().index(c) for c in (1, 4))
    assert assignment[0].tolist() == [left] * 3 + [right] * 3


def test_a_cluster_becomes_its_mean() -> None:
    method = reducer("dpcknn", entering=6, keep=2, options={"neighbours": 3})
    out = method.reduce(tokens(LINE), Taps(), 2)
    assert torch.allclose(out.patches[0, :, 0].sort().values, torch.tensor([1.0, 21]), atol=1e-4)
    assert out.size is None


def test_scores_weigh_the_mean_and_sizes_count_if_asked_for() -> None:
    options = {"neighbours": 3, "weighted": True, "track_size": True}
    method = reducer("dpcknn", entering=6, keep=1, options=dict(options))
    assert isinstance(method, DPCKNN)
    assert method.score is not None
    with torch.no_grad():
        method.score.weight.zero_()
        method.score.weight[0, 0] = 1.0
        method.score.bias.zero_()
    wide = torch.cat([LINE / 10, torch.zeros(6, 15)], dim=1)  # the facts' width is 16
    out = method.reduce(tokens(wide), Taps(), 1)
    weights = (LINE[:, 0] / 10).exp()
    expected = (weights * LINE[:, 0] / 10).sum() / weights.sum()
    torch.testing.assert_close(out.patches[0, 0, 0], expected)
    assert out.sizes().tolist() == [[6]]
    assert method.proportional_attention


def test_equal_tokens_are_told_apart_by_their_index() -> None:
    same = torch.cat(
        [torch.zeros(1, 6, 2), torch.tensor([[[5.0, 0]], [[0, 5.0]]]).view(1, 2, 2)], 1
    )
    centres, assignment = density_peaks(same, 3, 2)
    assert sorted(centres[0].tolist()) == [0, 6, 7]  # one of the six, not three of them
    assert torch.equal(density_peaks(same, 3, 2)[1], assignment)


def test_more_neighbours_than_tokens_means_all_of_them() -> None:
    everyone, asked = density_peaks(LINE[None], 2, 6), density_peaks(LINE[None], 2, 20)
    assert torch.equal(everyone[0], asked[0])
    assert torch.equal(everyone[1], asked[1])


def test_costs_are_the_distances_and_the_score() -> None:
    method, facts = get_method("dpcknn"), synthetic_facts(1)
    plain, learned = ({"neighbours": 5, "weighted": w} for w in (False, True))
    counts = np.array([10]), np.array([4])
    assert method.overhead_macs(facts, 1, *counts, plain).tolist() == [100 * 16]
    assert method.overhead_macs(facts, 1, *counts, learned).tolist() == [110 * 16]
    assert method.overhead_params(facts, plain) == 0
    assert method.overhead_params(facts, learned) == 17
