"""Synthetic defects, painted on good pictures."""

from blemish.defects.foreground import Foreground, foreground, foregrounds
from blemish.defects.makers import MAKERS, Defect, Draw, Maker, faint, make
from blemish.defects.source import Source

__all__ = [
    "MAKERS",
    "Defect",
    "Draw",
    "Foreground",
    "Maker",
    "Source",
    "faint",
    "foreground",
    "foregrounds",
    "make",
]
