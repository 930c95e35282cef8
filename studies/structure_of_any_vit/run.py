"""Fewer tokens, or fewer tokens of a pruned model: fronts of a plain ViT at equal effort.

    python studies/structure_of_any_vit/run.py --data cifar10 --checkpoint vit_cifar10.safetensors

Two searches per seed with the same budget and the same number of evaluations: tokens alone, and
tokens together with heads, MLP width and blocks. Every front is judged on the same images. Writes
fronts.csv (one row per configuration) and summary.md to `--output`; what fronts.csv has already is
not searched again.
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

METHODS = {"methods": ["plug-in"], "exclude": ["random"]}
ARMS = {"tokens": METHODS, "joint": {**METHODS, "subnet": "search"}}
COLUMNS = ("macs_g", "of_uncompressed", "quality", "low", "high", "num_images", "method", "subnet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--budget", default="60%")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--finetunes", type=int, default=0, help="per search, of those trials")
    parser.add_argument("--images", type=int, default=64, help="per evaluation of the search")
    parser.add_argument("--final", type=int, default=200, help="per configuration of a front")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    path = options.output / "fronts.csv"
    rows = list(csv.DictReader(path.open())) if path.is_file() else []
    for seed in range(options.seeds):
        for arm in ARMS:
            if not any(row["arm"] == arm and int(row["seed"]) == seed for row in rows):
                rows += search(arm, seed, options)
                write(path, rows)
    summarise(rows, options)


def search(arm: str, seed: int, options: argparse.Namespace) -> list[dict[str, str]]:
    """The front of one search."""
    settings = SearchSettings(
        n_trials=options.trials,
        seed=seed,
        timeout_s=None,
        images_few=options.images,
        images_more=options.images,
        images_final=options.final,
        front_size=5,
        control_shapes=0,
        retrain_trials=options.finetunes,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{arm}.yaml"
        mode = ["plug-in", "retrain"] if options.finetunes else ["plug-in"]
        file.write_text(yaml.safe_dump({"version": 1, "mode": mode, **ARMS[arm]}))
        run = autotok.search(
            options.backbone,
            checkpoint=options.checkpoint,
            image_size=options.image_size,
            data=options.data,
            budget=options.budget,
            space=str(file),
            settings=settings,
            output=f"{folder}/run",
        )
        records = run.records()
    whole, found = records["reference"].costs.macs, []
    for record in records["front"]:
        values = (
            *(record.costs.macs / 1e9, record.costs.macs / whole),
            *(record.score.value, record.score.low, record.score.high, record.score.num_images),
            *(record.config.method, record.config.subnet.short if record.config.subnet else ""),
        )
        row = dict(zip(COLUMNS, map(str, values), strict=True))
        found.append({"arm": arm, "seed": str(seed), **row})
        print(f"{arm:<7} seed {seed}  {values[0]:.4f} G  {values[2]:.1f}  {values[-1]}", flush=True)
    return found


def summarise(rows: list[dict[str, str]], options: argparse.Namespace) -> None:
    """How much of the box of quality (0 to 100) over cost (0 to uncompressed) fronts dominate."""
    lines = [
        f"`{options.backbone}` on `{Path(options.data).name}`, budget {options.budget}:"
        f" {options.trials} evaluations of {options.images} images per search,"
        f" {options.finetunes} fine-tunes beside them, fronts judged on {options.final} images,"
        f" {options.seeds} seeds.",
        "",
        "| searched | hypervolume, mean | of each seed | best of each seed |",
        "|---|---|---|---|",
    ]
    volumes = {}
    for arm in ARMS:
        shares, best = [], []
        for seed in range(options.seeds):
            mine = [r for r in rows if r["arm"] == arm and int(r["seed"]) == seed]
            points = [[float(r["of_uncompressed"]), -float(r["quality"])] for r in mine]
            shares.append(hypervolume(np.array(points), np.array([1.0, 0.0])) / 100.0)
            best.append(max(float(r["quality"]) for r in mine))
        lines.append(
            f"| {arm} | {np.mean(shares):.3f} | {', '.join(f'{s:.3f}' for s in shares)} |"
            f" {', '.join(f'{b:.1f}' for b in best)} |"
        )
        volumes[arm] = np.array(shares)
    gain = volumes["joint"] - volumes["tokens"]
    p = float(wilcoxon(gain).pvalue) if gain.any() else 1.0
    lines += [
        "",
        f"joint less tokens: {gain.mean():+.3f} on average, {(gain > 0).sum()} of {len(gain)} seeds"
        f" above; Wilcoxon, two-sided, over seeds: p {p:.3f}.",
    ]
    (options.output / "summary.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """The table, complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("arm", "seed", *COLUMNS))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
