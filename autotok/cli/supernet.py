"""`autotok supernet train | eval | cut | search`: one set of weights, many subnets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import autotok

from .app import Verbs, app, interrupted, print_json, print_table, show
from .options import BackboneOption, CheckpointOption, DeviceOption, JsonFlag, QuietFlag

supernet_app = Verbs(
    help="Supernets: train one by a recipe; score, cut and search its subnets.",
    no_args_is_help=True,
)
app.add_typer(supernet_app, name="supernet")
COLUMNS = ("subnet", "width", "depth", "GFLOPs", "Mparams", "top-1 %", "images")
CAPTION = "In brackets: the 95 % interval."

DataOption = Annotated[str, typer.Option(help="'demo', 'digits', 'cifar10' or an image folder.")]
SUBNET_HELP = "default, largest, smallest, random:SEED, a YAML file or JSON"


@supernet_app.command("train")
def supernet_train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, e.g. studies/demo_supernet/recipe.yaml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for weights and log.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from its checkpoint.")] = False,
    device: DeviceOption = "auto",
    quiet: QuietFlag = False,
) -> None:
    """Train a supernet by a recipe, then judge its subnets on held-out images."""

    from .progress import StepProgress

    with StepProgress("training", quiet=quiet) as bar:

        def show(p: autotok.Progress) -> None:
            detail = f"{p.stage} step {p.step} of {p.steps}, loss {p.loss:.3f},"
            detail += f" train top-1 {p.train_top1_pct:.1f} %, {p.images_per_s:.0f} images/s"
            bar.update(p.step / p.steps, detail)

        try:
            results = autotok.train_supernet(
                recipe,
                output,
                resume=resume,
                device=device,
                on_training=show,
                on_judging=lambda share, text: bar.update(share, f"judging {text}"),
            )
        except KeyboardInterrupt as error:
            again = shlex.join(["autotok", "supernet", "train", str(recipe), "-o", str(output)])
            interrupted(error, f"go on with `{again} --resume`")
    print_json(results)


@supernet_app.command("eval")
def supernet_eval(
    backbone: BackboneOption = "autoformer_demo",
    checkpoint: CheckpointOption = None,
    data: DataOption = "demo",
    images: Annotated[int | None, typer.Option(min=1, help="Number of images; all.")] = None,
    subnet: Annotated[
        list[str] | None, typer.Option(help=f"{SUBNET_HELP}; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which images come first.")] = 0,
    device: DeviceOption = "auto",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure the accuracy of any subnets on the shared weights, with 95 % intervals."""

    from .progress import StepProgress

    autotok.reuse_large_blocks()
    with StepProgress("evaluating", quiet=quiet) as bar:
        scores = autotok.evaluate_subnets(
            backbone,
            subnets=subnet or ("default", "largest", "smallest"),
            checkpoint=checkpoint,
            data=data,
            num_images=images,
            seed=seed,
            device=device,
            on_progress=bar.update,
        )
    rows = [score.to_dict() for score in scores]
    if json:
        print_json(rows)
    else:
        print_table(f"Subnets of {backbone} on {data}", COLUMNS, _cells(rows), caption=CAPTION)


@supernet_app.command("cut")
def supernet_cut(
    output: Annotated[Path, typer.Option("--output", "-o", help="A .safetensors file.")],
    subnet: Annotated[str, typer.Option(help=SUBNET_HELP + ".")] = "default",
    backbone: BackboneOption = "autoformer_demo",
    checkpoint: CheckpointOption = None,
    data: Annotated[str, typer.Option(help="Images to compare cut and view on.")] = "demo",
    images: Annotated[int, typer.Option(min=1, help="How many of them.")] = 4,
    json: JsonFlag = False,
) -> None:
    """Write one subnet as a stand-alone model and check it against the supernet."""
    autotok.reuse_large_blocks()
    report = autotok.cut_subnet(
        subnet, output, backbone=backbone, checkpoint=checkpoint, data=data, num_images=images
    )
    show(report, json)


@supernet_app.command("search")
def supernet_search(
    budget: Annotated[
        list[str], typer.Option(help="'12Mparams', '2.3GFLOPs', '50%'; may be repeated.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what is found.")],
    at_least: Annotated[
        list[str] | None, typer.Option(help="Lower limit, e.g. '10Mparams'; may be repeated.")
    ] = None,
    backbone: BackboneOption = "autoformer_demo",
    checkpoint: CheckpointOption = None,
    data: DataOption = "demo",
    images: Annotated[int, typer.Option(min=1, help="Training images per fitness.")] = 100,
    final_images: Annotated[
        int, typer.Option(min=1, help="Validation images for the final evaluation.")
    ] = 400,
    finalists: Annotated[int, typer.Option(min=1, help="Subnets in the final evaluation.")] = 3,
    population: Annotated[int, typer.Option(min=1, help="Subnets per generation.")] = 50,
    generations: Annotated[int, typer.Option(min=1)] = 20,
    parents: Annotated[int, typer.Option(min=1, help="Best so far that breed.")] = 10,
    mutations: Annotated[
        int | None, typer.Option(min=0, help="Per generation; half the population.")
    ] = None,
    crossovers: Annotated[
        int | None, typer.Option(min=0, help="Per generation; half the population.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same course.")] = 0,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds for the evolution; the final evaluation follows."),
    ] = None,
    flops_convention: Annotated[
        str, typer.Option(help="What FLOPs in a budget mean: macs, macs-noattn, flops2x.")
    ] = "macs",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this folder.")] = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Search the best subnet within a budget by AutoFormer's evolution, without any reduction."""

    from .progress import StepProgress

    autotok.reuse_large_blocks()
    half = population // 2
    question = autotok.SubnetQuestion(
        budgets=tuple(budget),
        at_least=tuple(at_least or ()),
        backbone=backbone,
        checkpoint=checkpoint,
        data=data,
        images=images,
        final_images=final_images,
        finalists=finalists,
        flops_convention=flops_convention,
        settings=autotok.EvolutionSettings(
            population=population,
            generations=generations,
            parents=parents,
            mutations=half if mutations is None else mutations,
            crossovers=half if crossovers is None else crossovers,
            seed=seed,
        ),
        timeout_s=timeout or None,
    )
    with StepProgress("evolution", quiet=quiet) as bar:
        try:
            result = autotok.search_subnets(question, output, resume=resume, on_progress=bar.update)
        except KeyboardInterrupt as error:
            interrupted(error, "go on with the same command and --resume")
    if json:
        print_json(result)
        return
    rows = [*result["finalists"], result["default"]]
    print_table(f"{result['num_evaluated']} subnets tried", COLUMNS, _cells(rows), caption=CAPTION)
    typer.echo(f"best: {output / 'best.yaml'}")


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            row["subnet"],
            str(row["embed_dim"]),
            str(len(row["heads"])),
            f"{row['macs_g']:.3f}",
            f"{row['params_m']:.3f}",
            f"{row['top1_pct']:.1f} [{row['low_95']:.1f}, {row['high_95']:.1f}]",
            str(row["num_images"]),
        ]
        for row in rows
    ]
