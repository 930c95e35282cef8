"""Every registered method keeps the contract, and the contract catches those that break it."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from autotok.methods import Kind, TokenReducer, get_method, list_methods
from autotok.methods.primitives import select
from autotok.testing import (
    REDUCTION_CHECKS,
    check_method,
    default_backbones,
    reduces,
)
from autotok.testing import reduction_case as reduction_case
from autotok.tokens import Taps, Tokens

ReductionCheck = Callable[[type[TokenReducer]], None]


def named(check: object) -> str:
    return getattr(check, "__name__", str(check)).removeprefix("check_")


@pytest.mark.parametrize("check", REDUCTION_CHECKS, ids=named)
@pytest.mark.parametrize("method", [name for name in list_methods() if reduces(get_method(name))])
def test_a_reduction_keeps_its_promises(method: str, check: ReductionCheck) -> None:
    assert check(get_method(method)) is None  # type: ignore[func-returns-value]


class Honest(TokenReducer):
    """Keeps the first tokens."""

    name = "honest"
    title = "A method for tests"
    kind = Kind.PRUNE

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        index = torch.arange(num_keep, device=tokens.x.device)
        return select(tokens, index.expand(tokens.x.shape[0], -1))


class KeepsTooFew(Honest):
    """Ignores the count it was given."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return super().reduce(tokens, taps, max(1, num_keep - 1))


class TouchesThePrefix(Honest):
    """Scales everything."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        out = super().reduce(tokens, taps, num_keep)
        return out.with_x(out.x * 2)


class LeavesCoordinatesBehind(Honest):
    """Moves features only."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        out = super().reduce(tokens, taps, num_keep)
        return dataclasses.replace(out, coords=tokens.coords)


class LooksAtNeighbours(Honest):
    """Centres over the batch."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        out = super().reduce(tokens, taps, num_keep)
        return out.with_x(out.x - out.x.mean(dim=0, keepdim=True))


class ReadsUndeclaredKeys(Honest):
    """Reads a tap it did not ask for."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        assert taps.keys is not None
        return super().reduce(tokens, taps, num_keep)


class HidesItsProducts(Honest):
    """Multiplies matrices without declaring it."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        assert (tokens.x @ tokens.x.transpose(1, 2)).dim() == 3
        return super().reduce(tokens, taps, num_keep)


class CutsTheGradient(Honest):
    """Detaches."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return super().reduce(tokens.with_x(tokens.x.detach()), taps, num_keep)


class RollsDice(Honest):
    """Adds noise."""

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        out = super().reduce(tokens, taps, num_keep)
        return out.with_x(out.x + torch.randn_like(out.x))


class LosesSize(Honest):
    """Prunes, but declares that sizes add up."""

    conserves_size = True


BROKEN = {
    KeepsTooFew: ("shape_and_prefix", "was asked for tokens"),
    TouchesThePrefix: ("shape_and_prefix", "touches prefix tokens"),
    LeavesCoordinatesBehind: ("facts_travel_together", "leaves coordinates"),
    LooksAtNeighbours: ("batch_neighbours", "batch neighbours"),
    ReadsUndeclaredKeys: ("declared_needs_suffice", "reads more than it declares"),
    HidesItsProducts: ("overhead", "torch counts"),
    CutsTheGradient: ("gradients", "no finite gradient"),
    RollsDice: ("precision_device_and_repeat", "two results"),
    LosesSize: ("size_is_conserved", "sizes add up to"),
}


@pytest.mark.parametrize("method", BROKEN, ids=lambda m: m.__name__)
def test_a_broken_method_is_caught(method: type[TokenReducer]) -> None:
    check_name, sentence = BROKEN[method]
    check = next(c for c in REDUCTION_CHECKS if named(c) == check_name)
    with pytest.raises(AssertionError, match=sentence):
        check(method)


def test_an_honest_method_of_a_third_party_passes() -> None:
    for check in REDUCTION_CHECKS[1:]:
        check(Honest)
    with pytest.raises(Exception, match="method 'honest' is unknown"):
        REDUCTION_CHECKS[0](Honest)


def test_check_method_runs_the_whole_contract_by_name() -> None:
    check_method("none", backbones=default_backbones()[:1])
    with pytest.raises(Exception, match="did you mean 'tome'"):
        check_method("tomee")
