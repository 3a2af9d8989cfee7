"""What is in a folder, a list or a sequence of arrays: samples, each with its role."""

from blemish.data.layouts import LAYOUTS, read
from blemish.data.roles import check_masks, duplicates, hold_out
from blemish.data.samples import Role, Sample, Samples

__all__ = ["LAYOUTS", "Role", "Sample", "Samples", "check_masks", "duplicates", "hold_out", "read"]
