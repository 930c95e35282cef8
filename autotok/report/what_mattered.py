"""What mattered: the shares of each objective's variance by parameter, as a piece of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from autotok.metrics import TABLE
from autotok.searching.proposing.importance import FEWEST, importances
from autotok.searching.records.notes import parameter_words
from autotok.searching.records.objective import Objective
from autotok.searching.records.record import TrialRecord

CAVEAT = (
    "Functional ANOVA (Optuna's) over the complete trials, plug-in configurations on few images"
    " among them: how much of what differed goes with each parameter by itself, not which value of"
    " it is good. Parameters that only some methods have are left out."
)


def what_mattered(
    records: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> dict[str, Any]:
    """`Importances` as plain data, which the page is drawn from again."""
    return asdict(importances(records, objectives))


def mattered_html(kept: Mapping[str, Any]) -> str:
    """A table of bars, or why there is none; nothing where nothing was kept.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: what was kept is damaged.
    """
    if not kept:
        return ""
    count = int(kept["num_trials"])
    shares = {str(name): _numbers(found) for name, found in kept["shares"].items()}
    if count < FEWEST:
        told = f"{count} complete trials are too few to tell; from {FEWEST} on this is a table."
    elif not any(shares.values()):
        told = f"The {count} complete trials do not differ in what they found."
    else:
        return f"<h2>What mattered</h2>{_table(shares)}<p class='small'>{escape(CAVEAT)}</p>"
    return f"<h2>What mattered</h2><p>{escape(told)}</p>"


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): min(max(float(share), 0.0), 1.0) for name, share in found.items()}


def _table(shares: Mapping[str, Mapping[str, float]]) -> str:
    names = {m.column: m.label for m in TABLE}
    parameters = sorted(
        dict.fromkeys(name for found in shares.values() for name in found),
        key=lambda name: [-found.get(name, 0.0) for found in shares.values()],
    )
    heads = "".join(f"<th>{escape(names.get(name, name))}</th>" for name in shares)
    rows = "".join(
        f"<tr><td>{escape(parameter_words(name))}</td>"
        + "".join(_bar(found.get(name)) for found in shares.values())
        + "</tr>"
        for name in parameters
    )
    return f"<div class='wide'><table><tr><th>parameter</th>{heads}</tr>{rows}</table></div>"


def _bar(share: float | None) -> str:
    if share is None:
        return "<td>-</td>"
    return f"<td><div class='share' style='width:{100 * share:.0f}%'></div>{100 * share:.0f} %</td>"
