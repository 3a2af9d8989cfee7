"""What the methods have in common that train one network, in one go."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from blemish.data import Samples
from blemish.defects import Source
from blemish.methods import _training
from blemish.methods._contract import Run


class TrainsOnce(ABC):
    name: ClassVar[str]
    outputs: tuple[str, ...] = ("pred_score", "anomaly_map")
    told_classes = 0
    without = None
    trains = True
    notes: ClassVar[dict[str, str]] = {}

    def __init__(self, config: Any) -> None:
        self.config = config
        self.chosen: dict[str, Any] = {}

    @property
    def paints(self) -> bool:
        return False

    @abstractmethod
    def task(self, train: Samples, run: Run) -> Any:
        """What is to be trained on these images; called after what `fit` finds out about all of them."""

    @abstractmethod
    def scorer(self, task: Any, run: Run) -> nn.Module:
        """What judges, once the task is done."""

    def learned(self, task: Any, run: Run, shown: Source | bytes) -> Any:
        """`shown` is what tells this training from one of other pictures."""
        losses = _training.train(task, run, _training.key(self.name, self.config, shown, run))
        self.chosen |= _training.told(losses)
        return self.scorer(task, run)

    def leave_one_out(self, train: Samples, run: Run, alone: Samples) -> Iterator[nn.Module]:
        apart = replace(run, checkpoint=None, resume=False)

        def fitted(rest: Samples) -> nn.Module:
            one = self.task(rest, apart)
            _training.train(one, apart, {})
            return self.scorer(one, apart)

        return _training.each_half(train, alone, fitted)

    def facts(self) -> dict[str, Any]:
        return dict(self.chosen)
