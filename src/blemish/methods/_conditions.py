"""Good pictures, taken another time: what light, focus and noise change, and no defect does."""

from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch import nn

from blemish.data import Samples
from blemish.images import Image, PixelFormat
from blemish.methods._contract import Run
from blemish.methods._features import Features, features

LIGHT = 0.1
"""Share that brightness and contrast change by, at most."""
BLUR = 0.7
"""Standard deviation in pixels of what is out of focus, at most."""
NOISE = 3 / 255
"""Standard deviation by the way from black to white, at most."""


def relit(picture: NDArray[np.float32], light: float, rng: Generator) -> NDArray[np.float32]:
    """With brightness and contrast swayed by up to this share."""
    if not light:
        return picture
    brightness, contrast = 1 + light * rng.uniform(-1, 1, 2)
    mean = picture.mean()
    swayed: NDArray[np.float32] = ((picture - mean) * contrast + mean * brightness).clip(0, 1)
    return swayed.astype(np.float32)


def taken_again(picture: Image, fmt: PixelFormat, rng: Generator) -> Image:
    """In other light, less in focus and noisier."""
    span = fmt.white - fmt.black
    seen = relit(((picture - fmt.black) / span).astype(np.float32), LIGHT, rng)
    seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0, BLUR)).reshape(picture.shape)
    seen = (seen + rng.normal(0, rng.uniform(0, NOISE), picture.shape)).clip(0, 1) * span + fmt.black
    return (seen if picture.dtype == np.float32 else np.rint(seen)).astype(picture.dtype)


def features_again(module: nn.Module, samples: Samples, run: Run) -> Features:
    """What a module makes of each sample, taken again once."""
    pictures = {
        sample.name: taken_again(run.picture(sample), run.format, np.random.default_rng([run.seed, number]))
        for number, sample in enumerate(samples)
    }
    return features(module, samples, replace(run, decoded=pictures), "features in other light")
