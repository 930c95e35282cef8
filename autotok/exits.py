"""`ExitPolicy`: where a model may stop early, with which heads, and when an image does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from autotok.errors import ConfigError, nearest
from autotok.plain_data import whole

EXIT_KINDS = ("linear", "vit", "metr", "local-dw", "local", "global-2", "global-3")
"""Heads: on the class token, behind a block of their own, METR's, convolutional, over a thinned
grid."""
CRITERIA = ("confidence", "entropy", "patience", "patient_confident")
_THRESHOLDS = {"confidence": 0.8, "entropy": 0.6, "patient_confident": 0.6}
_PATIENCE = {"patience": 7, "patient_confident": 2}
_LGVIT = {
    8: ("local-dw",) * 2 + ("local",) * 2 + ("global-2",) * 2 + ("global-3",) * 2,
    6: ("local-dw", "local", "global-2", "global-2", "global-3", "global-3"),
    4: ("local-dw", "local", "global-2", "global-3"),
    2: ("local-dw", "global-2"),
}


def lgvit_kinds(number: int) -> tuple[str, ...]:
    """LGViT's heads for 2, 4, 6 or 8 exits, in their order (arXiv 2308.00255).

    Raises:
        ConfigError: another number.
    """
    if number not in _LGVIT:
        raise ConfigError(
            f"LGViT has no {number} exits; give 2, 4, 6 or 8 of them, or the kind of each exit"
        )
    return _LGVIT[number]


def parse_exits(text: str) -> ExitPolicy:
    """'linear@3,6,9' as a policy: kinds, by plus signs where they differ, and the blocks.

    Raises:
        ConfigError: it cannot be read so, or means nothing.
    """
    kinds, _, layers = text.partition("@")
    try:
        blocks = tuple(int(word) for word in layers.split(","))
    except ValueError:
        raise ConfigError(
            f"exits '{text}' are not understood; write KIND@LAYERS, such as linear@3,6,9 or"
            " lgvit@2,4,6,8"
        ) from None
    return ExitPolicy(blocks, tuple(kinds.split("+")))


@dataclass(frozen=True)
class ExitPolicy:
    """Exits behind blocks, and the rule by which an image stops at one of them.

    An image stops at the first exit where, by `criterion`,
    confidence: the largest probability exceeds `threshold`;
    entropy: that of the probabilities (natural logarithm) is below `threshold`;
    patience: as many exits in a row as `patience` says named the same class;
    patient_confident: as many in a row had an entropy below `threshold`.

    A single block, kind or threshold may be given as itself.
    """

    layers: tuple[int, ...]
    """Blocks whose outgoing tokens a head reads, rising."""
    kinds: tuple[str, ...] = ("linear",)
    """Head of each exit, or one for all; ('lgvit',) are LGViT's for that number of exits."""
    criterion: str = "confidence"
    threshold: tuple[float, ...] = ()
    """One for all exits, or one for each; () is the authors' default."""
    patience: int = 0
    """Exits in a row; 0 is the authors' default, 7 for patience and 2 for patient_confident."""
    mean_macs: int | None = None
    """Multiply-accumulates that an image shall cost on average; without a threshold beside it, one
    that meets it is to be found on images first."""

    def __post_init__(self) -> None:
        layers = tuple(whole("a layer of exits", at) for at in _each("layers", self.layers))
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise ConfigError(
                f"exits at layers {list(layers)} are not understood; give blocks from 0 on, rising,"
                " each once"
            )
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "kinds", self._spelled_out())
        if self.criterion not in CRITERIA:
            hint = nearest(self.criterion, CRITERIA)
            raise ConfigError(
                f"exit criterion '{self.criterion}' is unknown;{hint} known: {', '.join(CRITERIA)}"
            )
        default = _THRESHOLDS.get(self.criterion)
        self._check_mean()
        given = tuple(map(_number, _each("threshold", self.threshold)))
        if not given and default is not None and self.mean_macs is None:
            given = (default,)
        if default is None and given:
            raise ConfigError("exit criterion 'patience' has no threshold; give patience instead")
        if not self.wants_threshold and len(given) not in (
            {0} if default is None else {1, len(layers)}
        ):
            raise ConfigError(
                f"{len(given)} exit thresholds are given for {len(layers)} exits; give one, or one"
                " for each"
            )
        self._check_thresholds(given)
        object.__setattr__(self, "threshold", given)
        usual = _PATIENCE.get(self.criterion, 0)
        object.__setattr__(self, "patience", whole("patience of exits", self.patience))
        if self.patience < 0 or (self.patience and not usual):
            raise ConfigError(
                f"patience {self.patience} means nothing under exit criterion '{self.criterion}';"
                " give 1 or more with patience or patient_confident, else leave it out"
            )
        object.__setattr__(self, "patience", self.patience or usual)

    def _check_thresholds(self, given: Sequence[float]) -> None:
        """-1 is what is found where all images stop at the first exit."""
        most = 1.0 if self.criterion == "confidence" else math.inf
        wrong = [t for t in given if not (math.isfinite(t) and -1.0 <= t <= most)]
        if wrong:
            allowed = "a probability, 0 to 1" if most == 1.0 else "an entropy in nats, 0 or more"
            raise ConfigError(f"exit threshold {wrong[0]:g} is none; give {allowed}")

    def _check_mean(self) -> None:
        if self.mean_macs is None:
            return
        if self.criterion not in ("confidence", "entropy"):
            raise ConfigError(
                f"exit criterion '{self.criterion}' cannot be calibrated to a mean cost; choose"
                " confidence or entropy"
            )
        if isinstance(self.mean_macs, bool | str) or not self.mean_macs >= 1:
            raise ConfigError(
                f"mean_macs {self.mean_macs!r} of exits is no cost; give multiply-accumulates per"
                " image"
            )

    def _spelled_out(self) -> tuple[str, ...]:
        """A kind for every exit."""
        number, kinds = len(self.layers), _each("kinds", self.kinds)
        if kinds == ("lgvit",):
            return lgvit_kinds(number)
        for kind in kinds:
            if kind not in EXIT_KINDS:
                known = ("lgvit", *EXIT_KINDS)
                raise ConfigError(
                    f"exit kind '{kind}' is unknown;{nearest(kind, known)} known:"
                    f" {', '.join(known)}"
                )
        if len(kinds) not in (1, number):
            raise ConfigError(
                f"{len(kinds)} exit kinds are given for {number} exits; give one, or one for each"
            )
        return kinds * number if len(kinds) == 1 else kinds

    @property
    def places(self) -> tuple[tuple[int, str], ...]:
        """(block, kind) of each exit."""
        return tuple(zip(self.layers, self.kinds, strict=True))

    @property
    def words(self) -> str:
        """What `parse_exits` reads."""
        return f"{'+'.join(self.kinds)}@{','.join(map(str, self.layers))}"

    @property
    def wants_threshold(self) -> bool:
        """Whether the one that meets the mean cost is still to be found."""
        return self.mean_macs is not None and not self.threshold

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One for each exit; () where the criterion has none."""
        return self.threshold * len(self.layers) if len(self.threshold) == 1 else self.threshold

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        data: dict[str, object] = {
            "layers": list(self.layers),
            "kinds": list(self.kinds),
            "criterion": self.criterion,
        }
        if self.threshold:
            data["threshold"] = list(self.threshold)
        if self.patience:
            data["patience"] = self.patience
        if self.mean_macs is not None:
            data["mean_macs"] = self.mean_macs
        return data


def _each(what: str, given: object) -> tuple[Any, ...]:
    """All of several; one alone is itself."""
    try:
        return (given,) if isinstance(given, (str, Real)) else tuple(given)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{what} of exits is {given!r}; give one, or a list") from None


def _number(threshold: object) -> float:
    try:
        if not isinstance(threshold, (bool, str)):
            return float(threshold)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"exit threshold {threshold!r} is none; give a number")
