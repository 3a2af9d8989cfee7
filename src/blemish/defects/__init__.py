"""Synthetic defects, painted on good pictures."""

from blemish.defects.foreground import Foreground, foreground, foregrounds, has_one_object
from blemish.defects.fractalmaker import FractalMaker
from blemish.defects.makers import MAKERS, Defect, Faint, Maker, faint, make
from blemish.defects.paste import Draw
from blemish.defects.source import Source

__all__ = [
    "MAKERS",
    "Defect",
    "Draw",
    "Faint",
    "Foreground",
    "FractalMaker",
    "Maker",
    "Source",
    "faint",
    "foreground",
    "foregrounds",
    "has_one_object",
    "make",
]
