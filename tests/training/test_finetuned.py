"""What is told of a fine-tune afterwards: which state was kept, and why."""

import pytest

from autotok.training.finetuned import FineTuned
from autotok.training.probe import RateChoice


def done(kept_step: int, losses: tuple[float | None, ...]) -> FineTuned:
    held_out = tuple((2 * n, loss) for n, loss in enumerate(losses))
    rate = RateChoice(1e-3, "given")
    return FineTuned(4, 32, 1.0, 0.5, 32.0, "float32", rate, 0, kept_step, 8, held_out)


@pytest.mark.parametrize(
    ("kept_step", "losses", "before", "after", "why"),
    [
        (0, (1.0, 1.5, 1.2), 1.0, 1.0, "the start: no step lowered the loss on held-out images"),
        (2, (1.0, 0.5, 0.7), 1.0, 0.5, "the lowest loss on held-out images of 3 states"),
        (4, (None, 0.9, 0.7), None, 0.7, "the end: the lowest loss on held-out images of 3 states"),
    ],
)
def test_the_state_that_was_kept_and_its_reason_are_told(
    kept_step: int,
    losses: tuple[float | None, ...],
    before: float | None,
    after: float,
    why: str,
) -> None:
    found = done(kept_step, losses)
    assert (found.held_out_before, found.held_out_after) == (before, after)
    evidence = found.evidence()
    assert (evidence["kept_step"], evidence["kept_reason"]) == (kept_step, why)
    assert (evidence["held_out_before"], evidence["held_out_after"]) == (before, after)
