"""The contract that every method keeps, as code: also for methods of one's own.

    from autotok.testing import check_method
    check_method(MyMethod)

Single checks are in `REDUCTION_CHECKS` (method) and `MODEL_CHECKS` (method, backbone), to be
parametrised over by a test runner.
"""

from __future__ import annotations

from collections.abc import Iterable

from autotok.backbones.base import Backbone
from autotok.methods.base import TokenReducer
from autotok.methods.registry import get_method

from .model import MODEL_CHECKS, default_backbones, example_config
from .reduction import REDUCTION_CHECKS
from .reduction_case import ReductionCase, reduces, reduction_case, synthetic_facts

__all__ = [
    "MODEL_CHECKS",
    "REDUCTION_CHECKS",
    "ReductionCase",
    "check_method",
    "default_backbones",
    "example_config",
    "reduces",
    "reduction_case",
    "synthetic_facts",
]


def check_method(
    method: str | type[TokenReducer], *, backbones: Iterable[Backbone] | None = None
) -> None:
    """Nothing, if a registered method keeps the whole contract.

    `backbones` are those to try it in; a handful of tiny ones by default.

    Raises:
        AssertionError: the first broken promise, as a sentence.
    """
    cls = get_method(method) if isinstance(method, str) else method
    for check in REDUCTION_CHECKS if reduces(cls) else ():
        check(cls)
    for backbone in default_backbones() if backbones is None else backbones:
        for check_in_model in MODEL_CHECKS:
            check_in_model(cls, backbone)
