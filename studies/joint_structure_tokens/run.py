"""Fewer tokens, a smaller subnet, or both: fronts of the demo supernet at equal effort.

    python studies/joint_structure_tokens/run.py [--seeds 10] [--arms tokens,both]

Three searches per seed with the same budget and the same number of evaluations: tokens of the
default subnet, subnets with all their tokens, and both together. Every front is judged on the same
held-out images. Writes fronts.csv (one row per configuration), hypervolumes.csv, summary.md and
fronts.png beside itself; what fronts.csv has already is not searched again.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import wilcoxon

import autotok
from autotok.searching.records.pareto import hypervolume
from autotok.searching.space.settings import SearchSettings

HERE = Path(__file__).parent
BUDGET, BUDGET_G = "3.6GFLOPs", 3.6
SCHEDULE = {"families": ["stages", "every", "ratio"]}
ARMS = {
    "tokens": ("fixed", {"methods": ["plug-in"], "exclude": ["random"]}),
    "structure": ("search", {"methods": ["none"]}),
    "both": ("search", {"methods": ["plug-in"], "exclude": ["random"]}),
}
COLUMNS = ("arm", "seed", "macs_g", "top1_pct", "top1_pct_low", "top1_pct_high", "num_images",
           "method", "params_m", "config")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--images", type=int, default=32, help="per evaluation of the search")
    parser.add_argument("--final", type=int, default=100, help="per configuration of a front")
    options = parser.parse_args()
    path = HERE / "fronts.csv"
    rows = list(csv.DictReader(path.open())) if path.is_file() else []
    for seed in range(options.seeds):
        for arm in options.arms:
            if not any(row["arm"] == arm and int(row["seed"]) == seed for row in rows):
                rows += search(arm, seed, options)
                write(path, COLUMNS, rows)
    summarise(rows, options)


def search(arm: str, seed: int, options: argparse.Namespace) -> list[dict[str, str]]:
    """The front of one search, judged on held-out images."""
    subnet, space = ARMS[arm]
    settings = SearchSettings(
        n_trials=options.trials,
        seed=seed,
        images_few=options.images,
        images_more=options.images,
        images_final=options.final,
        front_size=5,
        control_shapes=0,
        retrain_trials=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{arm}.yaml"
        file.write_text(yaml.safe_dump({"version": 1, "schedule": SCHEDULE, **space}))
        run = autotok.search(
            budget=BUDGET, space=str(file), subnet=subnet, settings=settings, output=f"{folder}/run"
        )
        front = run.front
    found = []
    for row in front.to_dict("records"):
        found.append({"arm": arm, "seed": str(seed), **{k: str(row[k]) for k in COLUMNS[2:]}})
        print(f"{arm:<10} seed {seed}  {row['macs_g']:.3f} G  {row['top1_pct']:.1f} %", flush=True)
    return found


def summarise(rows: list[dict[str, str]], options: argparse.Namespace) -> None:
    """Hypervolumes: the area of accuracy (%) over cost (G) that a front dominates, as a share."""
    volumes: dict[str, list[float]] = {arm: [] for arm in options.arms}
    table = []
    for arm in options.arms:
        for seed in range(options.seeds):
            mine = [r for r in rows if r["arm"] == arm and int(r["seed"]) == seed]
            points = np.array([[float(r["macs_g"]), -float(r["top1_pct"])] for r in mine])
            share = hypervolume(points, np.array([BUDGET_G, 0.0])) / (BUDGET_G * 100.0)
            volumes[arm].append(share)
            table.append({"arm": arm, "seed": seed, "hypervolume": f"{share:.4f}"})
    write(HERE / "hypervolumes.csv", ("arm", "seed", "hypervolume"), table)
    lines = [
        f"{options.trials} evaluations of {options.images} images per search, fronts judged on"
        f" {options.final} held-out images, {options.seeds} seeds, budget {BUDGET}.",
        "",
        "| searched | hypervolume, mean | lowest to highest seed | best top-1 of each seed |",
        "|---|---|---|---|",
    ]
    for arm, found in volumes.items():
        best = [
            max(float(r["top1_pct"]) for r in rows if r["arm"] == arm and int(r["seed"]) == seed)
            for seed in range(options.seeds)
        ]
        lines.append(
            f"| {arm} | {np.mean(found):.3f} | {min(found):.3f} to {max(found):.3f} |"
            f" {', '.join(f'{b:.1f} %' for b in best)} |"
        )
    if {"tokens", "both"} <= volumes.keys():
        gain = np.array(volumes["both"]) - np.array(volumes["tokens"])
        p = float(wilcoxon(gain).pvalue) if gain.any() else 1.0
        lines += [
            "",
            f"both less tokens: {gain.mean():+.3f} on average, {(gain > 0).sum()} of {len(gain)}"
            f" seeds above; Wilcoxon, two-sided, over seeds: p {p:.3f}.",
        ]
    (HERE / "summary.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    draw(rows)


def draw(rows: list[dict[str, str]]) -> None:
    """One line per front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for color, arm in zip(("tab:blue", "tab:orange", "tab:green"), ARMS, strict=True):
        for seed in sorted({r["seed"] for r in rows if r["arm"] == arm}):
            mine = sorted(
                (float(r["macs_g"]), float(r["top1_pct"]))
                for r in rows
                if r["arm"] == arm and r["seed"] == seed
            )
            label = arm if seed == "0" else None
            axes.plot(*zip(*mine, strict=True), "o-", color=color, alpha=0.6, label=label)
    axes.set_xlabel("GFLOPs (1e9 multiply-accumulates)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_xlim(0, BUDGET_G)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(title="searched")
    figure.savefig(HERE / "fronts.png", dpi=130)


def write(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
