"""The one inference path: a picture in, a result out. NumPy, OpenCV and ONNX Runtime; never torch."""

import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.errors import ModelFileError
from blemish.images import Image, PixelFormat
from blemish.model.archive import Archive
from blemish.model.calibration import Calibration
from blemish.model.result import Result, find_regions


class Raw(NamedTuple):
    """What the graph says of a batch."""

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    nearest: NDArray[np.int64] | None


class Graph:
    """In ONNX Runtime: pixels (N, C, H, W) in 0..1 → pred_score, anomaly_map [, nearest_image]."""

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
        inputs = [given.name for given in self.session.get_inputs()]
        if inputs != ["pixels"] or not {"pred_score", "anomaly_map"} <= set(self.outputs):
            raise ModelFileError(
                f"The graph of {name} turns {inputs} into {self.outputs}, not pixels into pred_score and "
                "anomaly_map: fit the model anew."
            )

    def __call__(self, batch: NDArray[np.float32]) -> Raw:
        try:
            named = dict(zip(self.outputs, self.session.run(None, {"pixels": batch}), strict=True))
        except Exception as error:
            raise ModelFileError(f"The graph of {self.name} fails, fit the model anew: {error}") from error
        return Raw(named["pred_score"], named["anomaly_map"], named.get("nearest_image"))


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
            self.calibration = Calibration.from_json(archive.calibration)
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
    def manifest(self) -> dict[str, Any]:
        return self.archive.manifest

    def pixels(self, image: Image, name: str) -> NDArray[np.float32]:
        """(C, H, W) as the graph takes it; refuses a picture of another bit depth or channel count."""
        self.format.check(image, name)
        return self.format.to_unit(image, self.size)

    def raw(self, image: Image, name: str = "picture") -> Raw:
        raw = self.graph(self.pixels(image, name)[None])
        if not (np.isfinite(raw.scores).all() and np.isfinite(raw.maps).all()):
            raise ModelFileError(
                f"{name} could not be scored: {self.name} answers NaN or infinity; compare its pixel values "
                "with those of the good images, or fit the model anew."
            )
        return raw

    def inspect(self, image: str | Path | NDArray[Any], *, name: str | None = None) -> Result:
        begin = time.perf_counter()
        if isinstance(image, (str, Path)):
            name, pixels = name or str(image), images.read(Path(image))
        else:
            name = name or "picture"
            pixels = images.as_image(image, name)
        raw = self.raw(pixels, name)
        score = float(raw.scores[0])
        calibration = self.calibration
        return Result(
            image=name,
            score=score,
            verdict=calibration.verdict(score),
            threshold=calibration.threshold,
            review_threshold=calibration.review_threshold,
            p_value=calibration.p_value(score),
            map=raw.maps[0],
            regions=find_regions(raw.maps[0], calibration.region_threshold, pixels.shape[:2]),
            nearest=None if raw.nearest is None else self.manifest["remembered"][int(raw.nearest[0])],
            ms=(time.perf_counter() - begin) * 1e3,
            model=self.name,
        )

    def inspect_many(self, pictures: Iterable[str | Path | NDArray[Any]]) -> Iterator[Result]:
        for picture in pictures:
            yield self.inspect(picture)

    def overlay(
        self, image: NDArray[Any], result: Result, *, mask: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """The picture with its heat map on the model's fixed scale."""
        return images.overlay(
            images.to_rgb8(images.as_image(image, result.image), self.format),
            result.map,
            low=self.calibration.heat_low,
            high=self.calibration.heat_high,
            mask=mask,
            outline_at=self.calibration.region_threshold,
            text=f"{result.score:.3g} {result.verdict}",
        )

    def info(self) -> dict[str, Any]:
        """What the file says of itself, in words and figures."""
        manifest = {key: value for key, value in self.manifest.items() if key not in ("remembered", "parts")}
        sizes = {name: part["bytes"] for name, part in self.manifest.get("parts", {}).items()}
        calibration = {key: value for key, value in self.calibration.to_json().items() if key != "scores"}
        return {**manifest, "bytes": sizes, "calibration": calibration}
