"""The one inference path: a picture in, a result out. NumPy, OpenCV and ONNX Runtime; never torch."""

import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.errors import DataError, ModelFileError
from blemish.images import Image, PixelFormat
from blemish.model.archive import Archive
from blemish.model.calibration import LEFT_OUT, STAND_IN, Calibration
from blemish.model.products import Calibrations, one_of, recognised
from blemish.model.result import Result, Verdict, find_regions

HIDDEN = ("remembered", "known", "parts")
"""What is too long to be told: `info` leaves it out of the manifest."""


class Raw(NamedTuple):
    """What the graph says of a batch."""

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    nearest: NDArray[np.int64] | None
    classes: NDArray[np.float32] | None = None
    """(N, classes): how far each picture looks like each."""
    notes: Mapping[str, NDArray[np.float32]] = {}
    """Outputs `note_…` (N,): above 0 where the manifest's sentence of that name holds."""


class Graph:
    """In ONNX Runtime: pixels (N, C, H, W) in 0..1 → pred_score, anomaly_map [, nearest_image, class_scores].

    One that scores each product in a way of its own also takes `classes` (N, classes): ones and zeros, or
    zeros alone where it has to find out.
    """

    def __init__(self, graph: bytes, *, name: str = "model", threads: int = 0) -> None:
        import onnxruntime

        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises bare exceptions of its own
            raise ModelFileError(
                f"The graph of {name} cannot be opened, fit the model anew or upgrade onnxruntime: {error}"
            ) from error
        self.outputs = [output.name for output in self.session.get_outputs()]
        inputs = {given.name: given.shape for given in self.session.get_inputs()}
        self.takes = inputs.get("classes", [0, 0])[-1]
        fits = list(inputs) in (["pixels"], ["pixels", "classes"])
        if not fits or not {"pred_score", "anomaly_map"} <= set(self.outputs):
            raise ModelFileError(
                f"The graph of {name} turns {list(inputs)} into {self.outputs}, not pixels into pred_score "
                "and anomaly_map: fit the model anew."
            )

    def __call__(self, batch: NDArray[np.float32], classes: NDArray[np.float32] | None = None) -> Raw:
        given = {"pixels": batch}
        if self.takes:
            given["classes"] = np.zeros((len(batch), self.takes), np.float32) if classes is None else classes
        try:
            named = dict(zip(self.outputs, self.session.run(None, given), strict=True))
        except Exception as error:
            raise ModelFileError(f"The graph of {self.name} fails, fit the model anew: {error}") from error
        optional = named.get("nearest_image"), named.get("class_scores")
        notes = {name: value for name, value in named.items() if name.startswith("note_")}
        return Raw(named["pred_score"], named["anomaly_map"], *optional, notes)


class Inspector:
    """An opened model. `inspect` is what most users need; `raw` is for metrics."""

    def __init__(self, archive: Archive, *, name: str = "model", threads: int = 0) -> None:
        self.archive = archive
        self.name = name
        self.threads = threads
        try:
            self.format = PixelFormat.from_json(archive.manifest["format"])
            height, width = map(index, archive.manifest["size"])
            self.size = height, width
            if min(self.size) < 1:
                raise ValueError(f"size {height}×{width}")
            self.calibrations = Calibrations.from_json(archive.calibration)
            self.classes = tuple(archive.manifest.get("classes") or ("",))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"{name} does not describe a model as blemish does ({error!r}): fit it anew."
            ) from error

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 0) -> Self:
        return cls(Archive.read(Path(path)), name=Path(path).name, threads=threads)

    def save(self, path: str | Path) -> None:
        self.archive.write(Path(path))
        self.name = Path(path).name

    @cached_property
    def graph(self) -> Graph:
        return Graph(self.archive.graph, name=self.name, threads=self.threads)

    @property
    def calibration(self) -> Calibration:
        """Of all products together."""
        return self.calibrations.pooled

    @property
    def statement(self) -> str:
        """What the thresholds are worth, in words."""
        pooled, own = self.calibration.statement, self.calibrations.own
        others = [klass for klass in self.classes if klass not in own]
        if not own:
            return f"{pooled} For want of images it is for all products." if len(others) > 1 else pooled
        by = {how: [klass for klass, each in own.items() if each.how == how] for how in (LEFT_OUT, STAND_IN)}
        alone = (klass for klass in own if klass not in by[STAND_IN])
        told = f"With thresholds of their own: {', '.join(alone)}."
        if by[LEFT_OUT] and self.calibration.how != LEFT_OUT:
            told += f" By images left out one at a time: {', '.join(by[LEFT_OUT])}."
        if by[STAND_IN]:
            told += (
                " With those that others have if they are cut to as few images, for want of more: "
                f"{', '.join(by[STAND_IN])}."
            )
        if others:
            told += (
                " With those of all products, which may reject its good parts, for want of images: "
                f"{', '.join(others)}."
            )
        return f"{told}\nAll products together: {pooled}"

    @property
    def manifest(self) -> dict[str, Any]:
        return self.archive.manifest

    def pixels(self, image: Image, name: str) -> NDArray[np.float32]:
        """(C, H, W) as the graph takes it; refuses a picture of another bit depth or channel count."""
        self.format.check(image, name)
        return self.format.to_unit(image, self.size)

    def raw(self, image: Image, name: str = "picture", *, klass: str | None = None) -> Raw:
        raw = self.graph(self.pixels(image, name)[None], one_of(self.classes, klass))
        if not (np.isfinite(raw.scores).all() and np.isfinite(raw.maps).all()):
            raise DataError(  # good pictures had scores, or there would be no model
                f"{name} could not be scored: {self.name} answers NaN or infinity; compare its pixel values "
                "with those of the good images, or fit the model anew."
            )
        return raw

    def inspect(
        self, image: str | Path | NDArray[Any], *, name: str | None = None, klass: str | None = None
    ) -> Result:
        """`klass` says which product it is, to a model of several; else the model finds out."""
        begin = time.perf_counter()
        if isinstance(image, (str, Path)):
            name, pixels = name or str(image), images.read(Path(image))
        else:
            name = name or "picture"
            pixels = images.as_image(image, name)
        raw = self.raw(pixels, name, klass=klass)
        score = float(raw.scores[0])
        shares = None if raw.classes is None else raw.classes[0]
        seen = recognised(shares, self.classes, klass, self.calibrations.least_confidence)
        calibration = self.calibrations.for_class(seen.klass)
        verdict = calibration.verdict(score)
        sentences = self.manifest.get("notes", {})
        notes = [sentences[key] for key, value in raw.notes.items() if value[0] > 0 and key in sentences]
        if seen.klass and len(self.classes) > 1 and seen.klass not in self.calibrations.own:
            notes.append(f"For want of images {seen.klass} is judged by the thresholds of all products.")
        if calibration.how == STAND_IN:
            notes.append(f"For want of images {seen.klass} is judged as others of which as few are known.")
        if seen.doubt is not None:
            notes.append(seen.doubt)
            # By what is usual for other products nobody can call it good.
            if seen.klass is None and verdict is Verdict.ACCEPT:
                verdict = Verdict.REVIEW
        return Result(
            image=name,
            score=score,
            verdict=verdict,
            threshold=calibration.threshold,
            review_threshold=calibration.review_threshold,
            p_value=calibration.p_value(score),
            map=raw.maps[0],
            regions=find_regions(raw.maps[0], calibration.region_threshold, pixels.shape[:2]),
            nearest=None if raw.nearest is None else self.manifest["remembered"][int(raw.nearest[0])],
            klass=seen.klass,
            class_confidence=seen.confidence,
            notes=tuple(notes),
            ms=(time.perf_counter() - begin) * 1e3,
            model=self.name,
        )

    def inspect_many(self, pictures: Iterable[str | Path | NDArray[Any]]) -> Iterator[Result]:
        for picture in pictures:
            yield self.inspect(picture)

    def overlay(
        self, image: NDArray[Any], result: Result, *, mask: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """The picture with its heat map on the fixed scale of its product."""
        calibration = self.calibrations.for_class(result.klass)
        return images.overlay(
            images.to_rgb8(images.as_image(image, result.image), self.format),
            result.map,
            low=calibration.heat_low,
            high=calibration.heat_high,
            mask=mask,
            outline_at=calibration.region_threshold,
            text=f"{result.score:.3g} {result.verdict}",
        )

    def info(self) -> dict[str, Any]:
        """What the file says of itself, in words and figures."""
        manifest = {key: value for key, value in self.manifest.items() if key not in HIDDEN}
        sizes = {name: part["bytes"] for name, part in self.manifest.get("parts", {}).items()}
        calibration = without_scores(self.calibration)
        if self.calibrations.own:
            own = self.calibrations.own.items()
            calibration["classes"] = {klass: without_scores(each) for klass, each in own}
        if self.calibrations.least_confidence is not None:
            calibration["least_confidence"] = self.calibrations.least_confidence
        return {**manifest, "bytes": sizes, "calibration": calibration}


def without_scores(calibration: Calibration) -> dict[str, Any]:
    return {key: value for key, value in calibration.to_json().items() if key != "scores"}
