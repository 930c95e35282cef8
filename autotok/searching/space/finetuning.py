"""How the search fine-tunes: what a space says about it, and how long 'auto' is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from autotok.config import Primitive
from autotok.errors import ConfigError
from autotok.finetune_spec import FineTuneSpec
from autotok.training.losses import get_loss

PREFIX = "finetune."
AUTO_STEPS = 200
"""Where no time limit says otherwise."""
FEWEST_STEPS, MOST_STEPS = 4, 20_000
VARYING = ("augment", "mixup", "cutmix", "randaugment", "random_erasing")
"""Settings by which an image differs each time."""
# the backward pass has two products for each of the forward pass
FORWARDS_PER_STEP = 3.0
"""Cost of a training step in forward passes of the same images."""
_AUTO = re.compile(r"auto(?:/(\d+))?")
_DEFAULTS: Mapping[str, tuple[Primitive, ...]] = {"length": ("auto",), "losses": ("soft",)}


@dataclass(frozen=True)
class FineTuneChoices:
    """Answers per setting of a fine-tune; one answer fixes it, several are searched.

    Settings are the fields of `FineTuneSpec`, with two conveniences: `length` may be 'auto' (what
    the time limit affords) or a fraction of it such as 'auto/2', and `losses` is a sum in words,
    'soft' or '0.5*ce+soft'.
    """

    choices: Mapping[str, tuple[Primitive, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", MappingProxyType({**_DEFAULTS, **self.choices}))
        for length in self.choices["length"]:
            if not _AUTO.fullmatch(str(length)):
                FineTuneSpec(length=str(length))
        for text in self.choices["losses"]:
            parse_losses(str(text))
        for name, values in self.choices.items():
            if name not in ("length", "losses"):
                for value in values:
                    FineTuneSpec.from_dict({name: value})

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles: a read-only mapping can do neither by itself."""
        return FineTuneChoices, (dict(self.choices),)

    def __repr__(self) -> str:
        return f"FineTuneChoices({dict(sorted(self.choices.items()))})"

    def teachers(self) -> Iterator[FineTuneSpec]:
        """A spec for every teacher, and weight file of one, that may be asked for."""
        names = ("teacher", "teacher_checkpoint")
        for given in itertools.product(*(self.choices.get(name, (None,)) for name in names)):
            yield FineTuneSpec.from_dict(dict(zip(names, given, strict=True)))

    def questions(self) -> Iterator[tuple[str, tuple[Primitive, ...]]]:
        """Parameter names with their choices."""
        for name, values in self.choices.items():
            yield PREFIX + name, values

    def restricted(self, losses: Collection[str], otherwise: str) -> FineTuneChoices:
        """The same without losses that are not among those given; `otherwise` if none is left."""
        usable = [t for t in self.choices["losses"] if set(parse_losses(str(t))) <= set(losses)]
        return FineTuneChoices({**self.choices, "losses": tuple(usable) or (otherwise,)})

    def first(self) -> dict[str, Primitive]:
        """The first answer to every question: what is tried before anything is known."""
        return {PREFIX + name: values[0] for name, values in self.choices.items()}

    def teacher_share(self, params: Mapping[str, Primitive], fine_tunes: int) -> float:
        """How often per image the teacher runs, when so many fine-tunes share its answers.

        They see the same images in the same order, unless these are varied.
        """
        names = parse_losses(str(params[PREFIX + "losses"]))
        if not any(get_loss(name).teacher for name in names):
            return 0.0
        given = {name: params[PREFIX + name] for name in VARYING if PREFIX + name in params}
        varied = FineTuneSpec.from_dict(given).varies
        return 1.0 if varied else 1.0 / max(1, fine_tunes)

    def batch_size(self, params: Mapping[str, Primitive]) -> int:
        """Images per step that a proposal asks for."""
        plain = FineTuneSpec()
        batch = params.get(PREFIX + "batch_size", plain.batch_size)
        return int(batch) * int(params.get(PREFIX + "accumulate", plain.accumulate))

    def spec(self, params: Mapping[str, Primitive], steps: int) -> FineTuneSpec:
        """The fine-tune a proposal means; `steps` is what 'auto' stands for."""
        data: dict[str, Any] = {
            key.removeprefix(PREFIX): value
            for key, value in params.items()
            if key.startswith(PREFIX)
        }
        data["losses"] = parse_losses(str(data["losses"]))
        auto = _AUTO.fullmatch(str(data["length"]))
        if auto:
            data["length"] = f"{max(FEWEST_STEPS, steps // int(auto[1] or 1))} steps"
        return FineTuneSpec.from_dict(data)


def parse_losses(text: str) -> dict[str, float]:
    """'0.5*ce+soft' as {'ce': 0.5, 'soft': 1.0}."""
    found: dict[str, float] = {}
    for term in text.split("+"):
        weight, star, name = term.strip().rpartition("*")
        try:
            found[name.strip()] = float(weight) if star else 1.0
        except ValueError:
            found.clear()
        if not name.strip().isidentifier() or not found:
            raise ConfigError(
                f"fine-tune losses '{text}' are not understood; give a sum such as 'soft' or"
                " '0.5*ce+soft'"
            )
    return found


def auto_steps(effort_macs: float | None, step_macs: float) -> int:
    """Steps that a number of multiply-accumulates pays for; cheap configurations get more."""
    if effort_macs is None:
        return AUTO_STEPS
    return min(MOST_STEPS, max(FEWEST_STEPS, round(effort_macs / step_macs)))


def image_macs(macs: int, teacher_macs: float) -> float:
    """Multiply-accumulates of an image in a training step.

    `teacher_macs` is what the teacher costs per image; see `FineTuneChoices.teacher_share`.
    """
    return FORWARDS_PER_STEP * macs + teacher_macs
