"""Thousands of damaged files and budgets: each is understood, or refused in one sentence."""

import copy
import csv
import functools
import io
import json
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotok.api.runs import resume
from autotok.errors import AutotokError
from autotok.export.best_yaml import read_best
from autotok.predicting.target import load_target
from autotok.report.closing import closing_data, closing_parts, front_data
from autotok.report.pages import draw_pages
from autotok.report.run import Run
from autotok.report.run_reports import compare_runs, status_report
from autotok.report.search_run import WholeSearch
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.question import Question
from autotok.searching.space.budget import parse_budgets, resolve
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import load_space
from autotok.supernet.recipe_file import load_recipe

pytestmark = pytest.mark.fuzz

ROOT = Path(__file__).parents[1]
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the damage is not what is tested
SECONDS, BYTES = 5.0, 10**9
WORDS = [
    "!!int x", "!!float x", "!!bool maybe", "!!timestamp y", "!!binary ä",
    "!!python/name:os.system",
    "2026-13-45", "2026-02-30 99:99:99", ".nan", ".inf", "-.inf", "1e999", "9" * 40, "9" * 5000,
    "-1", "0", "1e-4", "true", "null", "~", "''", "[]", "{}", "[[]]", "[{}]", "{a: {b: c}}",
    "&a [*a]", "*a", "<<: *a", "? ", "- ", ": ", "|", ">", "%YAML 9.9", "---", "...", "@", "`",
    "\t", "\x00", "ü",
    "\ud83d", "0x1F", "0o17", "1_000", "12:34:56", "[" * 400, "{a: " * 400, "x" * 3000, "!!set {a}",
    "!!omap [a: 1]", "yes", "=", "!<tag:yaml.org,2002:null> 3", "&b", "#", '"\\x"', "'", '"',
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 2**40, 2**63, 10**30, 0.5, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), "", "text", "1e-4", "../../x", "plug-in", "retrain", [], [1], ["a"],
    [None], [[1]], [1, 2, 3], {}, {"a": 1}, {"value": 1}, {1: 2}, [{}], "\x1b[31m", "x" * 500,
]  # fmt: skip


def bad_bytes(text: str, draw: random.Random) -> bytes:
    """The file with a few bytes changed, dropped or doubled, or cut off."""
    raw = bytearray(text.encode())
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(raw))
        match draw.randrange(4):
            case 0:
                raw[at] = draw.randrange(256)
            case 1:
                del raw[at : at + draw.randint(1, 30)]
            case 2:
                raw[at:at] = raw[at : at + draw.randint(1, 200)]
            case _:
                raw = raw[: max(at, 1)]
        raw = raw or bytearray(b" ")
    return bytes(raw)


def bad_tokens(text: str, draw: random.Random) -> bytes:
    """The file with words replaced by others that mean something to YAML."""
    words = text.split(" ")
    for _ in range(draw.randint(1, 3)):
        words[draw.randrange(len(words))] = draw.choice(WORDS)
    lines = " ".join(words).split("\n")
    if draw.random() < 0.3:
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def bad_structure(text: str, draw: random.Random) -> bytes:
    """The file with values of other kinds, keys renamed, dropped, or taken from elsewhere."""
    data = restructured(text, draw)
    return yaml.dump(data, Dumper=DUMPER, sort_keys=False).encode("utf-8", "surrogatepass")


@functools.cache
def parsed(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else yaml.safe_load(text)


def restructured(text: str, draw: random.Random) -> Any:
    data = copy.deepcopy(parsed(text))
    for _ in range(draw.randint(1, 3)):
        spots = list(places(data))
        holder, key = draw.choice(spots)
        match draw.randrange(5):
            case 0 if isinstance(holder, dict):
                holder[f"{key}x"] = holder.pop(key)
            case 1:
                del holder[key]
            case 2:
                other, its = draw.choice(spots)
                holder[key] = copy.deepcopy(other[its])  # or it ends up inside itself
            case _:
                holder[key] = copy.deepcopy(draw.choice(VALUES))
        if not data:
            break
    return data


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        yield data, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def fresh_target(path: Path) -> object:
    return load_target(path)


def read_run(path: Path) -> object:
    run = RunDirectory.open(path.parent)
    return run.section("search", SearchSettings), run.section("question", Question)


def read_records(path: Path) -> object:
    (path.parent / "config.yaml").touch()
    return Run(path.parent).records()


LOADERS: list[tuple[Callable[[Path], object], str, tuple[str, ...], int]] = [
    (load_space, "space.yaml", ("search_spaces/*.yaml", "studies/*/space.yaml"), 700),
    (fresh_target, "target.yaml", ("autotok/predicting/targets/[jlr]*.yaml",), 700),
    (load_recipe, "recipe.yaml", ("studies/*/recipe.yaml",), 500),
    (read_best, "best.yaml", ("studies/*/best.yaml",), 600),
    (read_run, "config.yaml", ("studies/*/config.yaml",), 500),
]


def refusal(load: Callable[[Any], object], what: Any) -> str | None:
    """The sentence that refuses `what`, None where it is read; either is quick and small.

    Any other exception passes on.
    """
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = None
    try:
        load(what)
    except AutotokError as error:
        text = str(error)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
    assert time.monotonic() - began < SECONDS
    assert text is None or (text.isprintable() and len(text) < 1000), text
    return text


@pytest.mark.parametrize(
    ("load", "name", "sources", "count"), LOADERS, ids=[row[1] for row in LOADERS]
)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(
    load: Callable[[Path], object], name: str, sources: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    texts = [path.read_text("utf-8") for pattern in sources for path in ROOT.glob(pattern)]
    assert texts
    draw, path, refused = random.Random(name), tmp_path / name, 0
    for number in range(count):
        damage = (bad_bytes, bad_tokens, bad_structure)[number % 3]
        content = damage(draw.choice(texts), draw)
        path.write_bytes(content)
        try:
            refused += refusal(load, path) is not None
        except Exception as error:
            raise AssertionError(f"case {number}: {content[:3000]!r}") from error
    assert refused > count // 3


def test_a_damaged_pareto_json_is_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    text = (ROOT / "studies/default/pareto.json").read_text("utf-8")
    draw, path = random.Random(5), tmp_path / "pareto.json"
    for number in range(200):
        path.write_bytes(bad_bytes(text, draw) if number % 2 else bad_tokens(text, draw))
        refusal(read_records, path)


def bad_table(text: str, draw: random.Random) -> bytes:
    """The table with cells of other kinds or from elsewhere, rows cut off, columns renamed."""
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(draw.randint(1, 3)):
        row = draw.choice(rows)
        at = draw.randrange(len(row))
        match draw.randrange(4):
            case 0 if at:
                del row[at:]
            case 1:
                rows[0][draw.randrange(len(rows[0]))] = draw.choice(["a", "number", "state", ""])
            case 2:
                row[at] = draw.choice(draw.choice(rows))
            case _:
                row[at] = str(draw.choice(VALUES))
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def bad_json(text: str, draw: random.Random) -> bytes:
    """The JSON file with values of other kinds, keys renamed, dropped, or taken from elsewhere."""
    return json.dumps(restructured(text, draw)).encode()


def resumable(run: Run) -> object:
    return resume(run.directory)


@functools.cache
def whole_run() -> Run:
    return Run(ROOT / "studies/default")


RUN_READERS: list[Callable[[Run], object]] = [
    status_report, closing_parts, closing_data, lambda run: front_data(run, "macs", "quality"),
    draw_pages, lambda run: compare_runs(run, whole_run()), resumable,
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage"),
    [("pareto.json", bad_json), ("trials.csv", bad_table), ("config.yaml", bad_structure)],
)
def test_a_finished_run_with_a_damaged_file_is_read_or_refused_by_every_reader(
    name: str,
    damage: Callable[[str, random.Random], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autotok.report.run.pareto_png", lambda path, *_, **__: path)
    monkeypatch.setattr("autotok.report.pages.pareto_png", lambda path, *_, **__: path)
    monkeypatch.setattr(WholeSearch, "resume", lambda *_, **__: None)  # all that is read before
    home = shutil.copytree(ROOT / "studies/default", tmp_path / "run")
    draw, text, refused = random.Random(name), (home / name).read_text("utf-8"), 0
    for reader in RUN_READERS:  # libraries are loaded once, which is not what the limit is about
        reader(Run(home))
    for number in range(110):
        content = damage(text, draw)
        (home / name).write_bytes(content)
        for reader in RUN_READERS:
            try:
                refused += refusal(lambda path, read=reader: read(Run(path)), home) is not None
            except Exception as error:
                raise AssertionError(f"case {number}: {content[:3000]!r}") from error
    assert refused > 40


NUMBERS = [
    "2.3", "0", "-1", "1e308", "1e-308", "1e400", "9" * 400, ".", "1,000", "2,3", "nan", "inf", "",
    "1e", "\uff11", "\u0663", "0x10", "1_000", "50", "100.0001", "1e-5", "5e-324", "+7", "--1",
]  # fmt: skip
UNITS = [
    "GFLOPs", "gmacs", "%", "%latency", "%memory", "%params", "ms", "s", "us", "µs", "fps", "MB",
    "GiB", "Mparams", "T", "K", "img/s", "GFLOPs/s", "FLOPs", "parsec", "", "%%", "b", "tmacs",
    "GB", "kib", "gflop", "\n", "\x00", "\u0131", "\u0130", "%ofmacs",
]  # fmt: skip
KNOWN = {
    "macs": 4.8e9,
    "macs_noattn": 4e9,
    "params": 6e6,
    "latency_ms": 26.0,
    "peak_memory_mb": 600.0,
}


def test_a_damaged_budget_is_understood_or_refused_in_one_sentence() -> None:
    draw = random.Random(9)
    alphabet = "0123456789.,eE+-% GMKTBflopsmacit/ms\n\t;&µ∞"
    for number in range(5000):
        text = (
            draw.choice(["", " ", "+"])
            + draw.choice(NUMBERS)
            + draw.choice(["", " "])
            + draw.choice(UNITS)
        )
        if number % 3 == 1:
            at = draw.randrange(len(text) + 1)
            text = (
                text[:at] + "".join(draw.choices(alphabet, k=draw.randint(1, 4))) + text[at + 1 :]
            )
        elif number % 3 == 2:
            text = "".join(draw.choices(alphabet, k=draw.randint(0, 14)))
        refusal(meant, (text, draw.choice(["macs", "macs-noattn", "flops2x"])))


def meant(asked: tuple[str, str]) -> None:
    for request in parse_budgets(asked[0], convention=asked[1]):
        budget = resolve(request, KNOWN)
        assert 0.0 < budget.limit < float("inf"), asked
        assert budget.echo.isprintable(), asked
