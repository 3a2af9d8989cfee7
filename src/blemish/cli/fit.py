import inspect
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from blemish import api, data
from blemish.cli._options import options_of, parse_size, registry
from blemish.cli._places import check_file, make_folder
from blemish.cli._terminal import JsonFile, describe, warn, watching, write_json
from blemish.data import Role, Samples
from blemish.errors import MissingExtraError, OutputError, UsageError
from blemish.model import Inspector
from blemish.model.calibration import check_budget

SUFFIX = ".blemish"
SHOWN = 5


class Precision(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


def command(arguments: Sequence[str]) -> Callable[..., None]:
    """`fit` with the options of the method that the arguments name."""
    name = method_in(arguments)
    try:
        own = options_of(registry().method_class(name))
    except MissingExtraError:
        if "--help" not in arguments:
            raise
        own = []

    def with_options(**given: Any) -> None:
        texts = {option: given.pop(option.name) for option in own}
        options = {option.name: option.parse(text) for option, text in texts.items() if text is not None}
        fit(**given, options=options)

    signature = inspect.signature(fit)
    common = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
    added = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    option.flag,
                    metavar=option.kind,
                    help=f"{name}: {option.told} [default: {option.show(option.default)}]",
                ),
            ],
        )
        for option in own
    ]
    with_options.__signature__ = signature.replace(parameters=common + added)  # type: ignore[attr-defined]
    with_options.__doc__ = fit.__doc__
    return with_options


def method_in(arguments: Sequence[str]) -> str:
    name = "reb"
    for argument, following in zip(arguments, [*arguments[1:], name], strict=True):
        if argument == "--method":
            name = following
        elif argument.startswith("--method="):
            name = argument.partition("=")[2]
    return name


def fit(
    source: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder of images, or a CSV, JSONL or JSON list.")
    ],
    *,
    method: Annotated[str, typer.Option(help="What learns: see `blemish methods`.")] = "reb",
    preset: Annotated[str, typer.Option(help="fast, full or paper.")] = "fast",
    backbone: Annotated[
        str, typer.Option(help="lite0 is embedded; others need --weights or a download.")
    ] = "lite0",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The backbone's weights: a state dict.")
    ] = None,
    size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Working size in pixels: a side, or height and width as 224x640."),
    ] = "256",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    false_reject: Annotated[
        float, typer.Option(metavar="SHARE", help="The share of good parts that may be rejected.")
    ] = 0.01,
    bank_mb: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="The most that remembered patches may take. [default: 8, or no limit if all are asked for]",
        ),
    ] = None,
    klass: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Of several products in DATA, learn this one alone."),
    ] = None,
    few_shot: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Learn from the first N good images of each class only."),
    ] = None,
    foreground: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Masks of the product. Without them it is found by its looks."),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many GPUs, or processes, share a training.")] = 1,
    precision: Annotated[
        Precision, typer.Option(help="Of training; auto: bf16 where it is quicker, and fp32 for paper.")
    ] = Precision.AUTO,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training that was interrupted.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where features of images stay for later fits, if the method can."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="How DATA is arranged, if that is not recognised.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The model file. [default: DATA's name and .blemish]")
    ] = None,
    json_file: JsonFile = None,
    options: dict[str, Any],
) -> None:
    """Learn from good images what a good part looks like, and write a model file.

    Test images are never looked at. Where DATA sets none aside for calibration, a fifth of the good images
    is; of fewer than 25, each is left out once instead. Beside larger products only some methods do that: by
    others such a product is judged by the threshold of all, unless it is learned alone, with --class.
    """
    begin = time.perf_counter()
    check_budget(false_reject)  # before the work, not after
    shape = parse_size(size)
    if out is not None:
        check_model_file(out)
    check_file(json_file, source, weights, out)
    if cache is not None:
        make_folder(cache, "--cache")
    samples = data.read(source, layout=layout)
    if klass is not None:
        samples = samples.only(klass)
    if out is None:
        out = Path("-".join(filter(None, (samples.name, klass))).replace("/", "-") + SUFFIX)
        check_model_file(out)
        check_file(json_file, out)
    warn_of_duplicates(samples)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if resume and not checkpoint.exists():
        raise UsageError(f"There is no {checkpoint} to go on with: fit again without --resume.")
    trains = registry().create(method, preset, options).trains
    if checkpoint.exists() and trains and not resume:
        warn(f"{checkpoint} of an interrupted training is started over; --resume would go on with it.")
    with watching() as watch:
        model = api.fit(
            samples,
            method=method,
            preset=preset,
            backbone=backbone,
            weights=weights,
            size=shape,
            seed=seed,
            device=device,
            false_reject=false_reject,
            bank_mb=bank_mb,
            few_shot=few_shot,
            foreground=foreground,
            devices=devices,
            precision=precision.value,
            checkpoint=checkpoint,
            resume=resume,
            cache=cache,
            layout=layout,
            skip_bad=skip_bad,
            options=options,
            progress=watch.progress,
            say=watch.say,
        )
    model.save(out)
    if trains:
        checkpoint.unlink(missing_ok=True)
    seconds = time.perf_counter() - begin
    offered = samples if few_shot is None else data.few_shot(samples, few_shot)
    skipped = sum(sample.role is not Role.TEST for sample in offered) - used(model)
    write_json(json_file, {"file": str(out), "seconds": seconds, "skipped": skipped, **api.load(out).info()})
    if json_file == Path("-"):
        return
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, fitted in {seconds:.1f} s")
    print(describe(model) + (f"; {skipped} left out" if skipped else ""))
    print(model.statement)


def used(model: Inspector) -> int:
    held_out = model.manifest["n_calibration"] if model.calibration.how == "held-out" else 0
    return int(model.manifest["n_train"]) + int(held_out)


def check_model_file(path: Path) -> None:
    if path.suffix != SUFFIX:
        raise OutputError(f"{path} is no name for a model file: let it end in {SUFFIX}.")
    check_file(path)


def warn_of_duplicates(samples: Samples) -> None:
    warn_of_learnt([f"{known.name} = {test.name}" for known, test in data.duplicates(samples)])


def warn_of_learnt(test: Sequence[str]) -> None:
    if not test:
        return
    lines = [f"  {name}" for name in test[:SHOWN]]
    lines += [f"  and {len(test) - SHOWN} more"] if len(test) > SHOWN else []
    noun = "image is" if len(test) == 1 else "images are"
    warn("\n".join([f"{len(test)} test {noun} also learnt from, and so measured as too good:", *lines]))
