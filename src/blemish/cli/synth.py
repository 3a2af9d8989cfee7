import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from blemish import api, data
from blemish.cli._options import parse_size
from blemish.cli._places import make_folder, whole_file
from blemish.cli._terminal import warn, watching
from blemish.data import Role, Samples
from blemish.defects import MAKERS, Draw, Source, foreground, foregrounds, make
from blemish.defects.fills import inside
from blemish.errors import DataError, OutputError, UsageError
from blemish.images import overlay, resize, resize_mask, to_rgb8, write_png

ENOUGH = 64
ROWS = 12
"""Draws on the sheet; more would be too small to see."""
LONGEST, NARROWEST = 2000, 640
LARGEST = 320
"""Sides in pixels: of the sheet, and of a view on it."""
GAP, LINE, COLUMN = 10, 22, 120
PAPER, INK = 228, (30, 30, 30)
"""Neither white nor black, as masks are."""
TITLE, CAPTION = 0.6, 0.48

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def synth(
    source: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder of images, or a CSV, JSONL or JSON list.")
    ],
    *,
    maker: Annotated[str, typer.Option(help=f"What paints: {', '.join(MAKERS)}.")] = "dm6",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is written.")] = Path(
        "synth-out"
    ),
    count: Annotated[
        int, typer.Option(min=1, help="Draws to make: one view of an image for each kind of defect.")
    ] = 8,
    size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Working size in pixels: a side, or height and width as 224x640."),
    ] = "256",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    masks: Annotated[
        Path | None,
        typer.Option("--foreground", metavar="DIR", help="Masks of the product, named after the images."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--no-augment", help="Do not turn the images nor change their colours.")
    ] = False,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="How DATA is arranged, if that is not recognised.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")
    ] = False,
) -> None:
    """Look at synthetic defects: paint them on good images, and show them on one sheet.

    The first 64 good images by name are used, or as many as there are draws. Test images are never looked at.
    """
    if maker not in MAKERS:
        raise UsageError(f"There is no defect maker {maker!r}: choose among {', '.join(MAKERS)}.")
    working = parse_size(size)
    shape = (working, working) if isinstance(working, int) else working
    check_apart(out, Path(source))
    make_folder(out)
    samples = good_of_one_product(data.read(source, layout=layout))[: max(count, ENOUGH)]
    labels = MAKERS[maker].labels
    sheet = Sheet(shape, ["picture", *labels], min(count, ROWS))
    with watching() as watch:
        samples, decoded, fmt = api.decode(
            samples, shape, skip_bad=skip_bad, progress=watch.progress, say=watch.say
        )
        pictures = np.stack([to_rgb8(decoded[sample.name], fmt) for sample in samples])
        where = foregrounds(pictures) if masks is None else given(masks, samples, shape)
        painted = Source(pictures, where, native=min(samples[0].read().shape[:2]))
        with whole_file(out / "synth.jsonl") as records:
            for index in watch.progress(range(count), "painting", count):
                number = index % len(samples)
                name = samples[number].name
                try:
                    draw = make(maker, painted, index, seed=seed, epoch=0, augment=not plain)
                except DataError as error:
                    told = f"{name} cannot be painted on at {shape[0]}×{shape[1]} pixels: {error}"
                    raise DataError(told) from error
                for label, view, mask in zip(labels, draw.views[1:], draw.masks[1:], strict=True):
                    files = write(out, f"{index:03d}_{label.replace('/', '-')}", view, mask)
                    record = {**files, "source": name, "maker": maker, "label": label}
                    print(json.dumps({**record, "index": index, "seed": seed, "epoch": 0}), file=records)
                if index < ROWS:
                    told = "given" if masks else f"{foreground(pictures[number]).confidence:.2f}"
                    told += ", not trusted: the whole picture" if where is None else ""
                    caption = f"{index:03d}   {name}   foreground {told}"
                    sheet.add(caption, pictures[number], painted.foreground[number], draw)
            write_png(out / "sheet.png", sheet.pixels)
    print(f"{out / 'sheet.png'}: {count} draws by {maker} on images of {samples.name}")
    estimate = "the whole picture, for no object stands out" if where is None else "estimated"
    print(f"Foreground: {'given' if masks else estimate}")


def check_apart(out: Path, source: Path) -> None:
    if source.expanduser().resolve() in (out.resolve(), *out.resolve().parents):
        raise OutputError(
            f"{out} lies in {source}, where painted defects would count as images of good parts: choose "
            "another folder with --out."
        )


def good_of_one_product(samples: Samples) -> Samples:
    """By name."""
    good = samples.with_items(sample for sample in samples if sample.role is not Role.TEST)
    if not good:
        raise DataError(
            f"There are no good images to paint on in {samples.name}: add some, for example as train/good."
        )
    first, *others = good.classes
    if others:
        warn(f"Of {len(good.classes)} products only {first!r} is painted on: give the images of one.")
    return good.with_items(sorted(good.klass(first), key=lambda sample: sample.name))


def given(folder: Path, samples: Samples, shape: tuple[int, int]) -> Mask:
    found = data.read_foregrounds(folder, samples)
    return np.stack([resize_mask(found[sample.name], shape) for sample in samples])


def write(out: Path, name: str, view: Pixels, mask: Mask) -> dict[str, str]:
    files = {"image": f"{name}.png", "mask": f"{name}_mask.png"}
    write_png(out / files["image"], view)
    write_png(out / files["mask"], white(mask))
    return files


def white(mask: Mask) -> Pixels:
    return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255


class Sheet:
    """A row a draw. Beside each large picture stand two small ones: where its defect is, and the defect."""

    def __init__(self, shape: tuple[int, int], titles: Sequence[str], rows: int) -> None:
        height, width = shape
        scale = min(
            ((LONGEST - GAP) / len(titles) - GAP - 2) / (1.5 * width),
            ((LONGEST - GAP - LINE) / rows - GAP - LINE) / height,
            LARGEST / max(height, width),
        )
        self.view = max(int(scale * height), 8), max(int(scale * width), 8)
        self.small = (self.view[0] - 2) // 2, (self.view[1] - 2) // 2
        self.step = max(self.view[1] + 2 + self.small[1], COLUMN) + GAP
        self.top = GAP
        sides = GAP + LINE + rows * (LINE + self.view[0] + GAP), max(GAP + len(titles) * self.step, NARROWEST)
        self.pixels = np.full((*sides, 3), PAPER, np.uint8)
        for column, title in enumerate(titles):
            self.text(title, GAP + column * self.step, self.step - GAP, TITLE)
        self.top += LINE

    def add(self, caption: str, picture: Pixels, foreground: Mask, draw: Draw) -> None:
        self.text(caption, GAP, self.pixels.shape[1] - 2 * GAP, CAPTION)
        self.top += LINE
        plain = np.asarray(resize(picture, self.view), np.uint8)
        outlined = overlay(plain, np.zeros(self.view, np.float32), low=0, high=1, mask=foreground)
        self.paste(0, outlined, white(foreground), draw.views[0])
        for column, (view, mask) in enumerate(zip(draw.views[1:], draw.masks[1:], strict=True), 1):
            self.paste(column, view, white(mask), close_up(view, mask))
        self.top += self.view[0] + GAP

    def paste(self, column: int, large: Pixels, upper: Pixels, lower: Pixels) -> None:
        left, beside = GAP + column * self.step, GAP + column * self.step + self.view[1] + 2
        below = self.top + self.view[0] - self.small[0]
        for picture, size, y, x in (
            (large, self.view, self.top, left),
            (upper, self.small, self.top, beside),
            (lower, self.small, below, beside),
        ):
            self.pixels[y : y + size[0], x : x + size[1]] = resize(picture, size)

    def text(self, text: str, left: int, room: int, scale: float) -> None:
        font = cv2.FONT_HERSHEY_SIMPLEX
        (full, _), _ = cv2.getTextSize(text, font, 1.0, 1)
        at = left, self.top + LINE - 8
        cv2.putText(self.pixels, text, at, font, min(scale, room / full), INK, 1, cv2.LINE_AA)


def close_up(view: Pixels, mask: Mask) -> Pixels:
    """A window about the defect, of the proportions of the picture and at least a quarter as wide."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    share = min(max(1.4 * height / mask.shape[0], 1.4 * width / mask.shape[1], 0.25), 1)
    rows, columns = (round(share * side) for side in mask.shape)
    y = inside(top + height // 2, rows, mask.shape[0])
    x = inside(left + width // 2, columns, mask.shape[1])
    return view[y : y + rows, x : x + columns]
