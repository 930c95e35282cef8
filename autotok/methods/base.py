"""`TokenReducer`: the single extension point. One sub-class per paper, one file per sub-class.

A method declares what it needs and does as data, and implements `reduce`, which the engine calls at
each reduction layer with the live tokens, the taps declared and how many to keep: nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from autotok.config import Options, Primitive
from autotok.errors import ConfigError, nearest
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .occupancy import Counts as Counts
from .occupancy import Occupancy, occupancy
from .occupancy import Placement as Placement
from .occupancy import Span as Span


class Kind(enum.Enum):
    """What becomes of the tokens."""

    NONE = "none"
    PRUNE = "prune"
    MERGE = "merge"
    POOL = "pool"
    HYBRID = "hybrid"


class Training(enum.Enum):
    """Whether a method works on frozen weights."""

    FREE = "free"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Count(enum.Enum):
    """Whether every image keeps the same number of tokens."""

    STATIC = "static"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class Option:
    """A hyper-parameter of a method: a choice, or a number with a range."""

    name: str
    default: Primitive
    meaning: str
    choices: tuple[Primitive, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    search: bool = False
    """Worth searching over; the others stay at their default unless set."""
    unsearched: tuple[Primitive, ...] = ()
    """Further choices, which a search takes only where its space names them."""
    model_wide: bool = False
    """One value for all layers, as it decides more than what one layer does; a value that a layer
    gives for itself and that differs is refused."""

    @property
    def allowed(self) -> tuple[Primitive, ...]:
        """All choices; none for a number with a range, or anything."""
        return self.choices + self.unsearched

    def check(self, value: Primitive, method: str) -> Primitive:
        """The value, or `ConfigError` saying what is allowed."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(
                f"option '{self.name}' of method '{method}' must be {kind.__name__}, got {value!r}"
            )
        if self.choices and value not in self.allowed:
            known = ", ".join(map(str, self.allowed))
            raise ConfigError(
                f"option '{self.name}' of method '{method}' cannot be {value!r}; choose one"
                f" of: {known}"
            )
        if not self.choices and isinstance(value, (int, float)) and not isinstance(value, bool):
            low = -np.inf if self.low is None else self.low
            high = np.inf if self.high is None else self.high
            if not low <= value <= high:
                raise ConfigError(
                    f"option '{self.name}' of method '{method}' is {value}, outside [{low}, {high}]"
                )
        return value


@dataclass(frozen=True)
class Site:
    """The place one reducer instance acts in."""

    layer: int
    num_entering: int
    """Patch tokens arriving."""
    num_keep: int
    """Patch tokens leaving; for adaptive methods the nominal number."""
    facts: BackboneFacts
    index: int = 0
    """Number of this reduction layer, from 0."""
    layers: tuple[int, ...] = ()
    """All reduction layers, rising; empty where only this one is known."""

    @property
    def is_last(self) -> bool:
        """No reduction layer follows."""
        return not self.layers or self.layer == self.layers[-1]


class TokenReducer(nn.Module):
    """Base class of all methods; see `autotok.testing.check_method` for the contract.

    What few methods need is a class of its own to inherit from as well: `BlockHooks`, `Observing`,
    `ImageScoring`, `Scoring`, `Matching`, `Learning`, `Calibrated`, `OfficialWeights`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """Method name as the paper writes it, and where it appeared."""
    kind: ClassVar[Kind]
    placement: ClassVar[Placement] = Placement.MID
    training_need: ClassVar[Training] = Training.FREE
    count: ClassVar[Count] = Count.STATIC
    options: ClassVar[tuple[Option, ...]] = ()
    rounding: ClassVar[str] = "ceil"
    """How a keep ratio becomes a count: 'ceil', 'floor' or 'round', as published."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Facts a backbone must have: 'cls', 'supervised_cls', 'position_table', 'plain_stem',
    'even_grid'."""
    first_layer: ClassVar[int] = 0
    """Earliest layer it can reduce at; 1 where it judges by the block before."""
    single_layer: ClassVar[bool] = False
    """Reduces once only."""
    span: ClassVar[Span] = Span.REST
    """How long a reduction lasts; where tokens are parked, a later layer may keep more."""
    conserves_size: ClassVar[bool] = False
    """Sizes of patch tokens add up to N0 after every reduction."""
    halves_r: ClassVar[bool] = False
    """The authors' code takes an r beyond half of the patch tokens as half of them."""
    same_untrained: ClassVar[str] = ""
    """Method that it equals on frozen weights; searches that are not told to leave it to that."""
    exportable: ClassVar[bool] = True
    needs: Needs = Needs.NONE
    """Taps wanted from the backbone; an instance may narrow or change it for its backbone."""
    proportional_attention: bool = False
    """Later blocks add log size to their keys' logits; an option `proportional` or `track_size`
    of the method decides it."""

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__()
        self.site = site
        self.values = dict(options)
        for name in {"proportional", "track_size"} & self.values.keys():
            self.proportional_attention = bool(self.values[name])

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles are made of: a training step leaves tensors here for its loss,
        and the graph behind them can be in neither."""
        return {name: _cut_loose(value) for name, value in vars(self).items()}

    # --- the mathematics

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        """Tokens with `num_keep` patch tokens; prefix tokens stay first and untouched."""
        raise NotImplementedError

    # --- what can be said without running it

    @classmethod
    def resolve_options(cls, given: Options) -> dict[str, Primitive]:
        """All options with defaults filled in; unknown names raise `ConfigError`."""
        known = {option.name: option for option in cls.options}
        for key in given:
            if key not in known:
                raise ConfigError(
                    f"option '{key}' of method '{cls.name}' is unknown;{nearest(key, known)}"
                    f" known: {', '.join(known) or 'none'}"
                )
        return {
            key: option.check(given.get(key, option.default), cls.name)
            for key, option in known.items()
        }

    @classmethod
    def count_with(cls, options: Options) -> Count:
        """`count` with these options; an adaptive method may have some that fix it."""
        return cls.count

    @classmethod
    def lasts(cls, options: Options) -> Span:
        """`span` with these options, which then are those of all layers."""
        return cls.span

    @classmethod
    def feasible(cls, entering: int, options: Options) -> tuple[int, int]:
        """Lowest and highest number of patch tokens one reduction can leave of `entering`."""
        return 1, entering

    @classmethod
    def acts(cls, entering: Any, keep: Any, options: Options) -> Any:
        """Whether something is done where `keep` of `entering` stay; counts or arrays of them."""
        return (keep != entering) | (cls.count is Count.ADAPTIVE)

    @classmethod
    def resolve_needs(cls, facts: BackboneFacts, options: Options) -> Needs:
        """Taps wanted on this backbone with these options; `needs` unless that depends."""
        return cls.needs

    @classmethod
    def occupancy(
        cls, layers: Sequence[int], counts: Counts, facts: BackboneFacts, options: Options
    ) -> Occupancy:
        """Patch tokens per block when reduction layers (S,) keep `counts` (M, S)."""
        return occupancy(
            layers,
            counts,
            num_patches=facts.num_patches,
            num_blocks=facts.num_blocks,
            placement=cls.placement,
            span=cls.lasts(options),
        )

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        """Multiply-accumulates (M,) of its own products where something goes, taps' left out."""
        return np.zeros_like(entering)

    @classmethod
    def joint_macs(
        cls, facts: BackboneFacts, layers: Sequence[int], counts: Counts, options: Options
    ) -> Counts:
        """More multiply-accumulates (M,): of several `layers` (S,) at once, keeping `counts`
        (M, R): of the first R alone where images stop early, or R = S."""
        return np.zeros(counts.shape[0], dtype=np.int64)

    @classmethod
    def early_macs(
        cls, facts: BackboneFacts, layers: Sequence[int], counts: Counts, options: Options
    ) -> Counts:
        """More multiply-accumulates (M,): of what is made before block 0 for `layers` (S,) that are
        to keep `counts` (M, S), for images that stop before the first of them too."""
        return np.zeros(counts.shape[0], dtype=np.int64)

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        """Parameters per reduction layer."""
        return 0

    @classmethod
    def site_params(cls, site: Site, options: Options) -> int:
        """Parameters at one place, training-only ones left out, where counts decide the shapes."""
        return cls.overhead_params(site.facts, options)

    @classmethod
    def notes(cls, facts: BackboneFacts, options: Options) -> tuple[str, ...]:
        """What a result should record, such as which score stood in for the class token's."""
        return ()


def _cut_loose(value: Any) -> Any:
    """The same, without the graphs behind its tensors."""
    if isinstance(value, Tensor):
        return value.detach() if value.grad_fn is not None else value
    if type(value) in (tuple, list):
        return type(value)(map(_cut_loose, value))
    return {k: _cut_loose(v) for k, v in value.items()} if type(value) is dict else value
