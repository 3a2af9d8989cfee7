"""Where the object is on a good picture, estimated from the picture alone.

Distance from the border's colour, its root, and the first principal component of local colour and roughness
each give one object, and each is judged by what an object on a background looks like: an even border, an
outline that stands out, one component that covers 5 to 60 % of the picture (FractalAD's rule). The best is
taken, and trusted the more another agrees. Where none can be trusted, as on a texture, all is foreground.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.defects.augment import Mask
from blemish.defects.source import Source

SIDE = 128  # the estimate needs no more
COVERAGE = (0.05, 0.60)
DOMINANT = 0.8
"""Share of the foreground that makes a component the object."""
TRUSTED = 0.5

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Foreground:
    mask: NDArray[np.bool_]
    """All true where the confidence is below one half."""
    confidence: float


def foreground(image: NDArray[np.uint8]) -> Foreground:
    height, width = image.shape[:2]
    shrink = min(SIDE / min(height, width), 1)
    small = cv2.resize(image, (round(width * shrink), round(height * shrink)), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(np.float32(cv2.medianBlur(small, 3)) / 255, cv2.COLOR_RGB2Lab)
    border = np.ones(lab.shape[:2], bool)
    border[4:-4, 4:-4] = False

    slopes = cv2.Sobel(lab, -1, 1, 0), cv2.Sobel(lab, -1, 0, 1)
    steepness = np.linalg.norm(np.concatenate(slopes, axis=2), axis=2)
    distance = _colour_distance(lab, border)
    judged = []
    for likeness in (distance, np.sqrt(distance), _first_component(lab, border)):
        mask = _one_object(likeness, border)
        judged.append((_quality(likeness, mask, border, steepness), mask))
    (quality, mask), *others = sorted(judged, key=lambda pair: -pair[0])
    agreement = max((mask & other).sum() / max((mask | other).sum(), 1) for _, other in others)
    confidence = float(quality * (1 + agreement) / 2)
    if confidence < TRUSTED:
        return Foreground(np.ones((height, width), bool), confidence)
    full = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return Foreground(full > 0.5, confidence)


def foregrounds(pictures: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Masks of one product's pictures, or None, everywhere, where the median confidence is below one half.

    They are judged together, for on a few pictures a texture may look like an object.
    """
    found = [foreground(picture) for picture in pictures]
    if np.median([each.confidence for each in found]) < TRUSTED:
        return None
    return np.stack([each.mask for each in found])


def has_one_object(source: Source) -> bool:
    """Whether most pictures show one object: a component that is dominant and neither tiny nor huge."""
    return bool(np.mean([_is_one_object(mask) for mask in source.foreground]) > 0.5)


def _is_one_object(mask: Mask) -> bool:
    areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    largest = areas.max()
    return bool(largest >= DOMINANT * areas.sum() and COVERAGE[0] <= largest / mask.size <= COVERAGE[1])


def _colour_distance(lab: Map, border: Mask) -> Map:
    """Distance from the background's colour, which may drift across the picture as light does."""
    rows, columns = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    plane = np.stack([np.ones_like(x), x, y], axis=-1).astype(np.float32)
    even = border
    for _ in range(5):  # pixels of an object that touches the border are left out of the next fit
        drift = np.linalg.lstsq(plane[even], lab[even], rcond=None)[0]
        distance = np.linalg.norm(lab - plane @ drift, axis=2).astype(np.float32)
        even = border & (distance <= 2 * np.median(distance[border]) + 1)
    return distance


def _first_component(lab: Map, border: Mask) -> Map:
    """First principal component of local colour and roughness, turned so that the border is low."""
    mean = cv2.boxFilter(lab, -1, (5, 5))
    rough = np.sqrt(np.maximum(cv2.boxFilter(lab * lab, -1, (5, 5)) - mean * mean, 0))
    features = np.concatenate([mean, rough], axis=2).reshape(-1, 6)
    features -= features.mean(0)
    axis = np.linalg.eigh(features.T @ features)[1][:, -1]
    component = (features @ axis).reshape(border.shape)
    sign = 1 if component.mean() >= component[border].mean() else -1
    return sign * component


def _one_object(likeness: Map, border: Mask) -> Mask:
    """The largest component above Otsu's threshold, smooth and without small holes."""
    low, high = likeness.min(), max(np.percentile(likeness, 99.5), likeness.min() + 1e-6)
    levels = (255 * (likeness - low) / (high - low)).clip(0, 255).astype(np.uint8)
    _, found = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    for step, side in ((cv2.MORPH_OPEN, 3), (cv2.MORPH_CLOSE, 5)):
        found = cv2.morphologyEx(found, step, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found)
    # What runs along the border is the edge of a tray or a lamp rather than the object.
    along = np.bincount(labels[border], minlength=len(stats)) / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    areas = np.where(along < 0.3, stats[:, cv2.CC_STAT_AREA], 0)
    areas[0] = 0
    mask = labels == areas.argmax() if areas.any() else np.zeros_like(border)
    _, holes, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 0.1 * mask.sum()
    return mask | (small & ~np.isin(np.arange(len(stats)), holes[border]))[holes]


def _quality(likeness: Map, mask: Mask, border: Mask, steepness: Map) -> float:
    """0 to 1: the product of what speaks for an object."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    plain = mask.astype(np.uint8)
    beyond = ~cv2.dilate(plain, disc, iterations=4).astype(bool)
    if not (COVERAGE[0] <= mask.mean() <= COVERAGE[1] and beyond.any()):
        return 0.0
    middle = (np.median(likeness[mask]) + np.median(likeness[~mask])) / 2
    # A lamp's spot fades slowly and a texture is as rough elsewhere, but an object's outline stands out.
    outline = cv2.morphologyEx(plain, cv2.MORPH_GRADIENT, disc).astype(bool)
    edge, elsewhere = np.median(steepness[outline]), np.percentile(steepness[beyond], 90)
    return (
        _rise(np.mean(likeness[border] < middle), 0.5, 0.9)
        * _rise(np.mean(likeness[mask] > middle), 0.5, 0.8)
        * _rise(np.mean(likeness[~mask] < middle), 0.6, 0.9)
        * _rise(edge / max(edge + elsewhere, 1e-6), 0.45, 0.85)
    )


def _rise(value: float | np.floating, start: float, full: float) -> float:
    return float(np.clip((value - start) / (full - start), 0, 1))
