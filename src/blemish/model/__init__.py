"""The product of fitting: one file, opened and run without torch."""

from blemish.model.calibration import Calibration
from blemish.model.inspector import Inspector
from blemish.model.result import Region, Result, Verdict

__all__ = ["Calibration", "Inspector", "Region", "Result", "Verdict"]
