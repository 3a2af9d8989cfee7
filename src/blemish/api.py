"""The few calls that most users need: fit() and load()."""

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from blemish import data as datasets
from blemish.data import Role, Sample, Samples
from blemish.errors import BudgetError, DataError, MissingExtraError, ParityError, UsageError
from blemish.images import Image, PixelFormat, resize
from blemish.model import Inspector
from blemish.model.archive import Archive
from blemish.model.calibration import HELD_OUT, LEFT_OUT, STAND_IN, check_budget
from blemish.model.inspector import Graph
from blemish.model.products import LEAST_OWN, Calibrations, Good, one_of

if TYPE_CHECKING:
    from torch import nn

    from blemish.methods import Method, Progress, Run, Say

Source = str | Path | Samples | Sequence[NDArray[Any] | Path | str]
PARITY = 1e-4
JUMPING_PARITY = 1e-2
"""Where rounding may swap two neighbours of a different density, or show a pixel that was hidden: there a
cell's score jumps, by as much as it will."""
JUMPING_SHARE = 0.01
"""Share of the pixels of a map that may be near such jumps."""
STRANGE_SHARE = 0.1
"""Share of what noise scores that good pictures are taken to score at least."""
PARITY_IMAGES = 8
AHEAD = 16
BYTES_A_PIXEL = 432
"""Of a batch, where the embedded backbone is widest: four images of 24 + 3 floats a pixel."""
SEEDS = 2**63
"""What a signed number of 64 bits holds, which every generator and reader takes."""


def load(path: str | Path) -> Inspector:
    """Open a .blemish file. Nothing of it is executed but its inspection graph."""
    return Inspector.load(path)


def fit(
    data: Source,
    *,
    method: str = "reb",
    preset: str = "fast",
    backbone: str = "lite0",
    weights: str | Path | None = None,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    device: str = "auto",
    false_reject: float = 0.01,
    bank_mb: float | None = None,
    klass: str | None = None,
    few_shot: int | None = None,
    foreground: str | Path | None = None,
    devices: int = 1,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    layout: str | None = None,
    skip_bad: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: "Progress | None" = None,
    say: "Say | None" = None,
) -> Inspector:
    """Learn from good images what a good part looks like.

    `data` is a folder, a list file, or a sequence of arrays or paths. Images with the role test are never
    looked at. Of several classes `klass` names the one to learn; without it one model learns all. `few_shot`
    keeps the first so many training images of each class, by name. `foreground` is a folder of masks of where
    the product is. A `checkpoint` file is written while a network is trained, and `resume` goes on from it.
    In a `cache` folder stays what a frozen backbone makes of the images, for later fits of methods that learn
    from it. `options` are the method's own settings; `blemish methods` lists them.
    """
    begin = time.perf_counter()
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "train", "Fitting") from error
    from safetensors.torch import save

    from blemish.methods import Run, create, quiet, silent
    from blemish.nets import load_backbone
    from blemish.nets.runtime import export

    seed, false_reject = index(seed), float(false_reject)  # NumPy's numbers are not JSON's
    shape = (index(size[0]), index(size[1])) if isinstance(size, Sequence) else (index(size), index(size))
    if min(shape) < 1:
        raise UsageError(f"The working size is {shape[0]}×{shape[1]}: give sides of at least 1 pixel.")
    if resume and checkpoint is None:
        raise UsageError("There is no checkpoint to resume from: say which file it is.")
    check_budget(false_reject)
    if bank_mb is not None and not 0 < bank_mb < math.inf:
        raise UsageError(f"The bank's budget is {bank_mb} MB: give a number above 0, such as 8.")
    if not 0 <= seed < SEEDS:
        raise UsageError(f"The seed is {seed}: give a whole number of at least 0 and below 2 ** 63.")
    progress, say = progress or quiet, say or silent
    chosen = create(method, preset, options)
    if resume and not chosen.trains:
        raise UsageError(f"Here {method} trains nothing that could be resumed: fit again without resume.")
    if devices > 1 and not chosen.trains:
        raise UsageError(f"Here {method} trains nothing that {devices} devices could share: ask for one.")
    if foreground is not None and not chosen.paints:
        raise UsageError(f"{method} paints no defects and so needs no foreground: fit without it.")
    if bank_mb is not None and "nearest_image" not in chosen.outputs:
        raise UsageError(f"{method} remembers no patches that could be limited: leave --bank-mb out.")
    samples = data if isinstance(data, Samples) else datasets.read(data, layout=layout)
    if klass is not None:
        samples = samples.only(klass)
    if few_shot is not None:
        samples = datasets.few_shot(samples, few_shot)
    samples = datasets.hold_out(samples, seed=seed)
    place, weights = torch.device(pick_device(device)), None if weights is None else Path(weights)
    if (backbone, weights) != ("lite0", None):
        load_backbone(backbone, weights=weights)  # what cannot work is refused before pictures are decoded
    good = samples.with_items(sample for sample in samples if sample.role is not Role.TEST)
    good, decoded, fmt = decode(good, shape, skip_bad=skip_bad, progress=progress, say=say)
    train, held = good.role(Role.TRAIN), good.role(Role.CALIBRATION)
    masks = None if foreground is None else datasets.read_foregrounds(Path(foreground), train)
    if len(train) < 2:
        named = ", ".join(filter(None, samples.classes))
        whose = f"{samples.name} ({named})" if named else samples.name
        raise DataError(
            f"{whose} has {len(train)} usable good image to learn from: at least 2 are needed, "
            "and 100 or more make a good threshold."
        )
    if lost := sorted({*held.classes} - {*train.classes}):
        raise DataError(
            f"{samples.name} has no usable good images to learn from of {', '.join(lost)}: add some, or "
            "remove its other images."
        )
    if len(held) == 1:
        raise DataError(
            f"{samples.name} has one usable image to calibrate with: give 2 or more, or none, and "
            "some good ones are held out."
        )
    run = Run(
        size=shape,
        format=fmt,
        seed=seed,
        preset=preset,
        backbone=backbone,
        weights=weights,
        device=place,
        devices=devices,
        precision=precision,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        resume=resume,
        cache=None if cache is None else Path(cache),
        bank_mb=bank_mb,
        masks=masks,
        progress=progress,
        say=say,
        decoded=decoded,
    )
    scorer = chosen.fit(train, run)
    calibrating = held or train
    archive = Archive(
        manifest=describe(chosen, train, calibrating, run),
        graph=export(scorer, fmt.channels, shape, chosen.outputs, classes=chosen.told_classes),
        calibration={},
        weights=save(chosen.weights(scorer)),
    )
    graph = Graph(archive.graph)
    unlearnt = calibrate(graph, chosen, train, held, run=run)
    calibrations = Calibrations.of(unlearnt, false_reject=false_reject)
    per_class = Counter(each.klass for each in unlearnt if each.how != STAND_IN)
    parity = check_parity(scorer, graph, run.pixels(calibrating[:PARITY_IMAGES]), calibrations.pooled.scores)
    manifest = archive.manifest | {
        "n_calibration": len(calibrations.pooled.scores),
        "calibration_counts": {klass: per_class[klass] for klass in train.classes},
        "parity": parity,
        "fit_seconds": round(time.perf_counter() - begin, 2),
        "peak_rss_mb": peak_rss_mb(),
    }
    return Inspector(replace(archive, manifest=manifest, calibration=calibrations.to_json()))


def decode(
    good: Samples, size: tuple[int, int], *, skip_bad: bool, progress: "Progress", say: "Say"
) -> tuple[Samples, dict[str, Image], PixelFormat]:
    """Every good image once: at working size, and the pixel format that all of them share."""
    by_class = good.with_items(sorted(good, key=lambda sample: sample.klass))
    decoded: dict[str, Image] = {}
    failures: list[str] = []

    def attempt(sample: Sample) -> Image | DataError:
        try:
            return sample.read()
        except DataError as error:
            return error

    def ahead() -> Iterator[tuple[Sample, Image | DataError]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(good), AHEAD):  # no more than these are ever held at full size
                some = by_class[start : start + AHEAD]
                yield from zip(some, pool.map(attempt, some), strict=True)

    def readable() -> Iterator[tuple[Sample, Image]]:
        for sample, image in progress(ahead(), "decoding", len(good)):
            if isinstance(image, DataError):
                failures.append(str(image))
            else:
                if not decoded:
                    check_memory(image, len(good), size)
                yield sample, image
                decoded[sample.name] = resize(image, size)

    def refuse() -> None:
        shown = "\n  ".join(failures[:10])
        raise DataError(
            f"{len(failures)} of {len(good)} good images cannot be read; mend or remove them, or leave them "
            f"out with --skip-bad:\n  {shown}"
        )

    formats = {
        klass: PixelFormat.of((sample.name, image) for sample, image in pictures)
        for klass, pictures in groupby(readable(), lambda pair: pair[0].klass)
    }
    if not formats or (failures and not skip_bad):
        refuse()
    fmt = PixelFormat.shared(formats)
    for failure in failures:
        say(f"Left out: {failure}")
    return good.with_items(sample for sample in good if sample.name in decoded), decoded, fmt


def check_memory(image: Image, count: int, size: tuple[int, int]) -> None:
    """Refuse what cannot be held: the good images at working size, and a batch in the backbone."""
    needed = math.prod(size) * (count * image.shape[2] * image.itemsize + BYTES_A_PIXEL)
    with suppress(AttributeError, OSError, ValueError):  # Windows does not say
        if needed > (held := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
            raise BudgetError(
                f"{count} good images of {size[0]}×{size[1]} pixels need at least {needed / 1e9:.0f} GB of "
                f"memory, and here are {held / 1e9:.0f}: choose a smaller size."
            )


def describe(method: "Method", train: Samples, calibrating: Samples, run: "Run") -> dict[str, Any]:
    import torch

    config = asdict(method.config)
    return {
        "product": "blemish",
        "version": version("blemish"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": train.name,
        "classes": list(train.classes),
        "class_counts": {klass: len(train.klass(klass)) for klass in train.classes},
        "method": method.name,
        "preset": run.preset,
        "config": {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        "backbone": method.facts().get("backbone", run.backbone),
        "weights": None if run.weights is None else run.weights.name,
        "size": list(run.size),
        "seed": run.seed,
        "n_train": len(train),
        "format": run.format.to_json(),
        "facts": method.facts(),
        "notes": method.notes,
        "remembered": [sample.name for sample in train],
        "known": sorted({datasets.fingerprint(sample) for sample in (*train, *calibrating)}),
        "versions": {"torch": torch.__version__, "onnxruntime": version("onnxruntime")},
    }


def check_parity(
    scorer: "nn.Module", graph: Graph, batch: NDArray[np.float32], good: Sequence[float]
) -> dict[str, Any]:
    """The largest difference between torch and the exported graph, relative to the scores of good images;
    in maps that jump, the largest of all pixels but one in a hundred."""
    import torch

    noise = np.random.default_rng(0).random((1, *batch.shape[1:]), np.float32)
    with torch.no_grad():
        trained = [out.numpy() for out in scorer.cpu().eval()(torch.from_numpy(batch))[:2]]
    shipped = graph(batch)
    # Good pictures that are all alike score nothing but rounding: seen from what is no part at all, little.
    usual = max(float(np.median(np.abs(good))), STRANGE_SHARE * float(np.abs(graph(noise).scores).max()))
    jumps = getattr(scorer, "jumps", ())
    found, allowed = {}, {}
    for name, ours, theirs in zip(("score", "map"), trained, shipped[:2], strict=True):
        apart = np.abs(ours - theirs) / max(float(np.abs(ours).max()), usual)
        share = 1 - JUMPING_SHARE if name in jumps and name == "map" else 1.0
        found[name] = float(np.quantile(apart, share))
        allowed[name] = JUMPING_PARITY if name in jumps else PARITY
        if not found[name] <= allowed[name]:  # nor is NaN
            raise ParityError(
                f"The {name} of the exported graph differs from the trained model's by {found[name]:.2g} of "
                f"the highest (allowed: {allowed[name]:g}), so no model was written: report this with method "
                "and backbone."
            )
    return {**found, "images": len(batch), "allowed": allowed}


def calibrate(graph: Graph, method: "Method", train: Samples, held: Samples, *, run: "Run") -> list[Good]:
    """What is said of good images that the scorer was not fitted on: held out, or left out one at a time. For
    products that have too few of them others stand in."""
    import torch

    from blemish.methods import StandIns

    good: list[Good] = []

    def note(
        sample: Sample, score: float, heat: NDArray[np.float32], shares: NDArray[np.float32] | None, how: str
    ) -> None:
        own = None if shares is None else float(shares[train.classes.index(sample.klass)])
        good.append(Good(score, float(heat.max()), sample.klass, own, how))

    def judged(scorer: "nn.Module", sample: Sample) -> dict[str, NDArray[np.float32]]:
        given = [torch.from_numpy(run.pixels([sample]))]
        if method.told_classes:
            given.append(torch.from_numpy(one_of(train.classes, sample.klass)))
        with torch.no_grad():
            found = scorer.cpu().eval()(*given)
        return {name: out[0].numpy() for name, out in zip(method.outputs, found, strict=True)}

    def peak(scorer: "nn.Module", sample: Sample) -> tuple[float, float]:
        found = judged(scorer, sample)
        return float(found["pred_score"]), float(found["anomaly_map"].max())

    for sample, batch in zip(held, run.progress(run.batches(held, 1), "calibrating", len(held)), strict=True):
        raw = graph(batch, one_of(train.classes, sample.klass))
        shares = None if raw.classes is None else raw.classes[0]
        note(sample, float(raw.scores[0]), raw.maps[0], shares, HELD_OUT)
    large = [name for name in train.classes if name in held.classes or len(train.klass(name)) >= LEAST_OWN]
    if alone := to_leave_out(method, train, held, large):
        scorers = method.leave_one_out(train, run, alone)
        counted = run.progress(scorers, "calibrating by leaving one out", len(alone))
        for sample, scorer in zip(alone, counted, strict=True):
            found = judged(scorer, sample)
            # What ships knows the picture. Where pictures are all alike it may score higher all the same.
            own = graph(run.pixels([sample]), one_of(train.classes, sample.klass))
            score = max(float(found["pred_score"]), float(own.scores[0]))
            heat = np.maximum(found["anomaly_map"], own.maps[0])
            note(sample, score, heat, found.get("class_scores"), LEFT_OUT)
    small = [name for name in train.classes if name not in large]
    if method.without is not None and large and small:
        others = StandIns(train, held, large, without=method.without, judge=peak, seed=run.seed)
        for name in run.progress(small, "calibrating products of few images by others", len(small)):
            found_of = others.of(train.klass(name))
            good += (Good(float(score), float(top), name, None, STAND_IN) for score, top in found_of)
    return good


def to_leave_out(method: "Method", train: Samples, held: Samples, large: Sequence[str]) -> Samples:
    """Where none are held out all, but those of products so small that a model without one of them hardly
    knows it, unless there are no others. Else those of products that set none aside, if that is quick."""
    if not held:
        some = train.with_items(s for s in train if s.klass in large)
        return some or train.with_items(s for s in train if len(train.klass(s.klass)) > 1) or train
    alone = train.with_items(s for s in train if s.klass in large and s.klass not in held.classes)
    return train.with_items(()) if method.without is None else alone


def pick_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"The device {name!r} cannot be used here: choose cpu, or leave it at auto."
        ) from error
    return name


def peak_rss_mb() -> float | None:
    with suppress(OSError):
        # What `resource` tells begins with the peak of the process that started this one.
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
