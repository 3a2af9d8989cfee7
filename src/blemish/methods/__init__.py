"""One file a method. By being registered it is tested, benchmarked, documented and offered."""

from blemish.methods._contract import Method, Progress, Run, Say, Scorer, quiet, silent
from blemish.methods._few import StandIns
from blemish.methods._registry import PRESETS, create, method_class, method_names

__all__ = [
    "PRESETS",
    "Method",
    "Progress",
    "Run",
    "Say",
    "Scorer",
    "StandIns",
    "create",
    "method_class",
    "method_names",
    "quiet",
    "silent",
]
