"""Evidence that names mean something."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish.evaluate.metrics import image_metrics
from blemish.methods import Run
from blemish.methods._evidence import naming_accuracy, scores_by_names, shared_state, with_a_name
from tests.methods.test_ltad import LEARNED, changed, ready, state
from tests.methods.test_uniad import products


class Photos:
    """Pictures of three products, good ones and ones that are bad."""

    def __init__(self, run: Run) -> None:
        self.run, self.samples = run, products({"a": 8, "b": 8, "c": 8})

    def of(self, klass: str, *, bad: bool = False) -> list[Tensor]:
        found = torch.from_numpy(self.run.pixels(self.samples.klass(klass)))
        if bad:
            found[:, :, 14:34, 14:34] = 0.9
        return [found]


def aurocs(scorer: Any, photos: Photos) -> NDArray[np.float64]:
    """Of each product by each name."""
    bad, found = np.repeat([False, True], 8), []
    for klass in "abc":
        both = [scores_by_names(scorer, photos.of(klass, bad=which)) for which in (False, True)]
        found.append([image_metrics(column.numpy(), bad).auroc for column in torch.cat(both).double().T])
    return np.array(found, np.float64)


def test_evidence_that_names_mean_something(small: dict[str, str]) -> None:
    options = {**LEARNED, "name_updates": 150, "updates": 150, "sad_hidden": 16, "score_of": "sad"}
    options["kept"] = 12
    method, naming, judgement, run = ready(options, products({"a": 8, "b": 8, "c": 4}), **small)
    scorer = method.learned(naming, judgement, judgement.train, run, {})
    photos = Photos(run)
    good = [photos.of(klass) for klass in "abc"]
    assert naming_accuracy(scorer, good) > 0.9
    assert naming_accuracy(scorer, good[::-1]) < 0.5
    own, other, _ = scores_by_names(scorer, photos.of("a")).T
    assert own.shape == (8,)
    assert own.mean() < other.mean(), "by another's name a good picture looks abnormal"
    told = aurocs(scorer, photos)
    assert told.diagonal().mean() > 0.95
    assert told.diagonal().mean() > told[~np.eye(3, dtype=bool)].mean() + 0.2
    cosines = shared_state(scorer)
    torch.testing.assert_close(cosines.diagonal(), torch.ones(3))
    assert cosines.min() > 0

    two = products({"a": 8, "b": 8})
    method, naming, judgement, run = ready(options, two, **small)
    pair = method.learned(naming, judgement, two, run, {})
    before = state(pair)
    few = [photos.of("c")[0][:4]]
    named, generic = with_a_name(pair, few), with_a_name(pair, None)
    assert [len(each.judge.normal) for each in (pair, named, generic)] == [2, 3, 3]
    assert torch.equal(named.judge.tables[:, :2], pair.judge.tables)
    images = named.space(named.gaze.look(photos.of("c")[0])).image
    assert (images @ named.judge.normal[2]).mean() > (images @ generic.judge.normal[2]).mean()
    assert aurocs(named, photos)[2, 2] > aurocs(generic, photos)[2, 2]
    assert not changed(pair, before)
