"""What is in a folder, a list or a sequence of arrays: samples, each with its role."""

from blemish.data.foregrounds import read_foregrounds
from blemish.data.layouts import LAYOUTS, read
from blemish.data.lists import list_text, root_of
from blemish.data.longtail import Groups, Tail, groups, groups_by_count, long_tail, train_counts
from blemish.data.roles import check_masks, duplicates, few_shot, fingerprint, hold_out
from blemish.data.samples import Role, Sample, Samples

__all__ = [
    "LAYOUTS",
    "Groups",
    "Role",
    "Sample",
    "Samples",
    "Tail",
    "check_masks",
    "duplicates",
    "few_shot",
    "fingerprint",
    "groups",
    "groups_by_count",
    "hold_out",
    "list_text",
    "long_tail",
    "read",
    "read_foregrounds",
    "root_of",
    "train_counts",
]
