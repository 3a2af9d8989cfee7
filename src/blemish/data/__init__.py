"""What is in a folder, a list or a sequence of arrays: samples, each with its role."""

from blemish.data.foregrounds import read_foregrounds
from blemish.data.layouts import LAYOUTS, read
from blemish.data.roles import check_masks, duplicates, few_shot, hold_out
from blemish.data.samples import Role, Sample, Samples

__all__ = [
    "LAYOUTS",
    "Role",
    "Sample",
    "Samples",
    "check_masks",
    "duplicates",
    "few_shot",
    "hold_out",
    "read",
    "read_foregrounds",
]
