"""Is the model any good, and at what cost: metrics, reports and benchmarks."""

from blemish.evaluate.evaluation import GROUPS, Evaluation, evaluate
from blemish.evaluate.report import write_report

__all__ = ["GROUPS", "Evaluation", "evaluate", "write_report"]
