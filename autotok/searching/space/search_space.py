"""`SearchSpace`: which configurations there are, as data. A proposal is a flat dict of primitives.

`walk` asks a chooser for one parameter after the other (an Optuna trial, a fixed dict), `decode`
turns the answers into a `Shape`, `encode` goes back for warm starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotok.config import Primitive, Subnet
from autotok.errors import ConfigError
from autotok.exits import parse_exits
from autotok.facts import BackboneFacts
from autotok.methods.base import Count, Kind, Placement, TokenReducer, Training
from autotok.methods.folding import Folding
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method, list_methods, unmet_need

from .exit_answers import NO_EXITS, exits_for, stops_early, whole_grid_until
from .finetuning import FineTuneChoices
from .parameters import Chooser, Condition, Parameter, Params, number, of_option
from .shape import Shape, fitted_schedule
from .subnets import Subnets

FAMILIES = ("stages", "every", "ratio")
"""One to four tapered stages; every layer, removing r; every layer, keeping the same ratio."""


@dataclass(frozen=True)
class SearchSpace:
    """A space as its YAML file says it; ranges are [low, high] in the file."""

    name: str = "default"
    methods: tuple[str, ...] = ("plug-in",)
    """Registered names, or 'plug-in' for every method that works on frozen weights without a
    further network and with fixed counts."""
    exclude: tuple[str, ...] = ()
    mode: tuple[str, ...] = ("plug-in",)
    families: tuple[str, ...] = FAMILIES
    first_layer: tuple[float, float] = (0.0, 0.5)
    """First reduction layer as a share of the depth."""
    num_stages: tuple[float, float] = (1, 4)
    spacing: tuple[float, float] = (0.2, 1.0)
    """Share of the blocks behind the first reduction layer over which the stages spread."""
    taper: tuple[float, float] = (0.5, 2.0)
    """Each stage removes this times as much (in log ratio) as the one before."""
    inflection: tuple[float, float] = (-1.0, 1.0)
    """-1 removes most in the first layers, 0 the same in each, 1 most in the last."""
    budget_fraction: tuple[float, float] = (0.0, 1.0)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per method: a value fixes an option, a list restricts it, 'default' takes it out."""
    conditions: tuple[Condition, ...] = ()
    finetune: FineTuneChoices = field(default_factory=FineTuneChoices)
    """How mode 'retrain' trains."""
    structure: Subnets | None = None
    """Subnets to search together with the tokens; None keeps the backbone as it is."""
    number_formats: tuple[str, ...] = field(default=("float32",), repr=False)
    """Of the exported file; what is not float32 is judged on that file."""
    image_sizes: tuple[int, ...] = field(default=(), repr=False)
    """Sides in pixels that the model may run on, smallest first; none: its own alone."""
    backbones: tuple[tuple[str, BackboneFacts], ...] = field(default=(), repr=False)
    """Name and facts of each where there are several, the first one included."""
    exits: tuple[str, ...] = field(default=(), repr=False)
    """Policies in `parse_exits`' words, whose heads were trained with the backbone, and 'none'."""
    exit_share: tuple[float, float] = field(default=(0.0, 1.0), repr=False)
    """Of what exits can save at the most, how much they do where reductions are at their most."""
    subnet: str = field(default="fixed", repr=False)
    """'search': the space asks for structure too, as `--subnet search` does."""

    def candidates(self, facts: BackboneFacts) -> tuple[str, ...]:
        """Methods of the space that fit the backbone, in the order given.

        With subnets, image sizes, backbones or exits to choose from, 'none' is one: a smaller
        subnet, image or backbone, or exits, may be all it takes. Of several backbones a method has
        to fit each.
        """
        wanted = "plug-in" in self.methods
        plug_in = _plug_in(tuple(map(get_method, list_methods()))) if wanted else ()
        named = [m for word in self.methods for m in (plug_in if word == "plug-in" else (word,))]
        smaller = self.structure is not None or bool(
            self.image_sizes or self.backbones or self.exits
        )
        if smaller and "none" not in self.exclude:
            named.insert(0, "none")
        unique = dict.fromkeys(m for m in named if m not in self.exclude and self._allows(m))
        every = (facts, *(other for _, other in self.backbones))
        fitting = tuple(
            m for m in unique if all(unmet_need(get_method(m), each) is None for each in every)
        )
        if "retrain" not in self.mode:
            self._refuse_untrained(fitting)
        if not fitting:
            raise ConfigError(
                f"space '{self.name}' has no method that backbone '{facts.name}' can run;"
                f" see `autotok methods --backbone {facts.name}`"
            )
        return fitting

    def names(self) -> tuple[str, ...]:
        """Of the backbones, the first one first; "" alone where there is one."""
        return tuple(name for name, _ in self.backbones) or ("",)

    def facts_of(self, backbone: str, only: BackboneFacts) -> BackboneFacts:
        """Of a backbone by name; "" is the first, or the `only` one."""
        return dict(self.backbones).get(backbone, only)

    def _refuse_untrained(self, methods: Sequence[str]) -> None:
        for name in methods:
            if get_method(name).training_need is Training.REQUIRED:
                raise ConfigError(
                    f"space '{self.name}' plugs methods in only, but method '{name}' has to be"
                    " trained; add retrain to its mode, or leave the method out"
                )

    def walk(self, choose: Chooser, facts: BackboneFacts) -> Params:
        """A proposal: every active parameter with its answer, in the order asked."""
        params: Params = {}

        def ask(parameter: Parameter) -> Primitive:
            parameter = self._restricted(parameter, params)
            only = parameter.only
            params[parameter.name] = choose(parameter) if only is None else only
            return params[parameter.name]

        if self.backbones:
            facts = self.facts_of(str(ask(Parameter("backbone", self.names()))), facts)
        if self.structure is not None:
            facts = self._ask_subnet(ask, params, self.structure)
        name = str(ask(Parameter("method", self.candidates(facts))))
        if self.exits:
            ask(Parameter("exits", self.exits_of(name)))
        if ask(Parameter("mode", self._modes(name, params))) == "retrain":
            for key, choices in self.finetune.questions():
                ask(Parameter(key, choices))
        if self.number_formats != ("float32",):
            ask(Parameter("number_format", self.formats_of(name)))
        if self.image_sizes:
            ask(Parameter("image_size", self.image_sizes))
        ask(number("budget_fraction", self.budget_fraction))
        self._ask_schedule(ask, get_method(name), facts, params)
        if self.exits and stops_early(params) and name != "none":
            ask(number("exit_share", self.exit_share))
        for parameter in self._option_parameters(name):
            ask(parameter)
        return params

    def _modes(self, method: str, params: Params) -> tuple[str, ...]:
        """Ways to get at weights; a method that must be trained is never plugged in, and heads of
        exits stay as they were trained."""
        if self.exits and stops_early(params):
            return ("plug-in",)
        untrained = get_method(method).training_need is Training.REQUIRED
        return ("retrain",) if untrained else self.mode

    def formats_of(self, method: str) -> tuple[str, ...]:
        """Number formats for a method: what needs an exported file is for those that have one."""
        cls = get_method(method)
        if cls.exportable and cls.count is Count.STATIC:
            return self.number_formats
        return tuple(name for name in self.number_formats if name == "float32")

    def exits_of(self, method: str) -> tuple[str, ...]:
        """Answers to which exits there are, for a method."""
        return exits_for(get_method(method), self.exits)

    def _allows(self, method: str) -> bool:
        """Whether a method has an answer to every question about files and exits."""
        return bool(self.formats_of(method)) and (not self.exits or bool(self.exits_of(method)))

    def sides_of(self, method: str) -> tuple[int, ...]:
        """Image sizes for a method, as far as conditions on the method alone tell."""
        asked = self._restricted(Parameter("image_size", self.image_sizes), {"method": method})
        return tuple(int(side) for side in asked.choices)

    @staticmethod
    def _ask_subnet(ask: Chooser, params: Params, structure: Subnets) -> BackboneFacts:
        """Ask for a subnet; its facts."""
        structure.ask(lambda name, choices: ask(Parameter(name, choices)))
        return structure.facts(structure.subnet(params))

    def _ask_schedule(
        self, ask: Chooser, method: type[TokenReducer], facts: BackboneFacts, params: Params
    ) -> None:
        if method.placement is Placement.BEFORE_BLOCKS or method.kind is Kind.NONE:
            return
        whole = whole_grid_until(str(params["exits"])) if "exits" in params else 0
        low, high = (
            max(method.first_layer, whole, round(share * (facts.num_blocks - 1)))
            for share in self.first_layer
        )
        if method.single_layer:
            ask(Parameter("first_layer", low=low, high=high, integer=True))
            return
        family = ask(Parameter("family", self.families))
        ask(Parameter("first_layer", low=low, high=high, integer=True))
        if family == "stages":
            stages = ask(number("num_stages", self.num_stages, integer=True))
            if int(stages) > 1:
                ask(number("spacing", self.spacing))
                ask(number("taper", self.taper, log=True))
        elif family == "every":
            ask(number("inflection", self.inflection))

    def _option_parameters(self, name: str) -> list[Parameter]:
        given = self.options.get(name, {})
        found = []
        for option in get_method(name).options:
            rule = given.get(option.name)
            if isinstance(rule, list):
                found.append(Parameter(f"{name}.{option.name}", tuple(rule)))
            elif rule is None and option.search:
                found.append(of_option(name, option))
        return found

    def _restricted(self, parameter: Parameter, params: Params) -> Parameter:
        for condition in self.conditions:
            wanted = condition.then.get(parameter.name)
            if wanted and all(params.get(k) in v for k, v in condition.when.items()):
                left = tuple(filter(parameter.allows, wanted))
                if not left:
                    raise ConfigError(
                        f"space '{self.name}': a condition leaves '{parameter.name}' only"
                        f" {', '.join(map(str, wanted))}, and here it can be {parameter.span};"
                        " name some of these"
                    )
                return Parameter(parameter.name, left)
        return parameter

    def decode(self, params: Mapping[str, Primitive], facts: BackboneFacts) -> Shape:
        """The shape a proposal means; its `budget_fraction` is for repair."""
        name = str(params["method"])
        method = get_method(name)
        given = {k.partition(".")[2]: v for k, v in params.items() if k.startswith(f"{name}.")}
        fixed = {
            key: rule
            for key, rule in self.options.get(name, {}).items()
            if not isinstance(rule, list) and rule != "default"
        }
        subnet, backbone = None, str(params.get("backbone", ""))
        facts = self.facts_of(backbone, facts)
        if self.structure is not None:
            subnet = self.structure.subnet(params)
            facts = self.structure.facts(subnet)
            subnet = self.structure.canonical(subnet)
        side = int(params["image_size"]) if "image_size" in params else None
        exits = str(params.get("exits", NO_EXITS))
        layers, weights, curve = _layout(params, facts.num_blocks)
        if method.kind is Kind.NONE:
            layers, weights = (), ()
        shape = Shape(
            name,
            layers,
            weights,
            curve,
            method.resolve_options({**fixed, **given}),
            subnet=subnet,
            number_format=str(params.get("number_format", "float32")),
            image_size=None if facts.at_size(side) == facts else side,
            backbone=backbone,
            exits=None if exits == NO_EXITS else parse_exits(exits),
            exit_share=float(params.get("exit_share", 1.0)),
        )
        return shape.within(facts.num_blocks)  # a method's first layer may be behind a short subnet

    def encode(
        self,
        method: str,
        layers: Sequence[int],
        ratios: Sequence[float],
        facts: BackboneFacts,
        *,
        options: Mapping[str, Primitive] | None = None,
        budget_fraction: float = 1.0,
        subnet: Subnet | None = None,
        image_size: int | None = None,
        backbone: str = "",
        exits: str = NO_EXITS,
    ) -> Params:
        """The proposal whose shape is nearest to keep ratios at layers."""
        facts = self.facts_of(backbone, facts)
        wanted = fitted_schedule(layers, ratios, facts.num_blocks) if layers else {}
        wanted.update({"method": method, "budget_fraction": budget_fraction, "backbone": backbone})
        wanted["image_size"] = image_size or facts.image_shape[1]
        wanted["exits"] = exits
        if self.structure is not None:
            wanted.update(self.structure.params(subnet or self.structure.default))
        wanted.update({f"{method}.{key}": value for key, value in (options or {}).items()})
        defaults = {f"{method}.{o.name}": o.default for o in get_method(method).options}

        def choose(parameter: Parameter) -> Primitive:
            value = wanted.get(parameter.name, defaults.get(parameter.name, parameter.low))
            if parameter.choices and value not in parameter.choices:
                return parameter.choices[0]
            return parameter.cast(value)

        return self.walk(choose, facts)


@cache
def _plug_in(classes: tuple[type[TokenReducer], ...]) -> tuple[str, ...]:
    """Of all methods those that work on frozen weights and keep as many tokens of every image."""
    return tuple(
        m.name
        for m in classes
        if m.training_need is not Training.REQUIRED
        and m.kind is not Kind.NONE
        and m.count is Count.STATIC
        and not issubclass(m, (ImageScoring, Folding))  # the latter is another without its file
        and not m.same_untrained
    )


def _layout(
    params: Mapping[str, Primitive], depth: int
) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    """Layers, weights and curve of a proposal."""
    first = int(params.get("first_layer", 0))
    family = params.get("family")
    if family is None:
        return (first,), (1.0,), "geometric"
    if first >= depth:
        return (first,), (1.0,), "geometric"
    if family == "stages":
        stages = int(params["num_stages"])
        span = float(params.get("spacing", 0.0)) * (depth - 1 - first)
        layers = [first + round(i * span / max(1, stages - 1)) for i in range(stages)]
        layers = list(dict.fromkeys(layers))
        steps = float(params.get("taper", 1.0)) ** np.arange(len(layers))
        return tuple(layers), _rising(steps), "geometric"
    layers = list(range(first, depth))
    if family == "ratio":
        return tuple(layers), _rising(np.ones(len(layers))), "geometric"
    across = np.linspace(-1.0, 1.0, len(layers)) if len(layers) > 1 else np.zeros(1)
    slope = float(params["inflection"]) * across
    return tuple(layers), _rising(1.0 + slope), "linear"


def _rising(steps: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    total = np.cumsum(steps) / np.sum(steps)
    return tuple(float(w) for w in total)
