"""Whether names that LTAD has learned mean anything: four looks at it, at test pictures of known classes.

Pictures are batches (N, C, H, W) in 0..1, as the scorer takes them. Of names learned without a text tower.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.judge import LtadScorer
from blemish.nets.namestate import NameState, Tables
from blemish.nets.uniad import image_score

Pictures = Iterable[Tensor]


@torch.no_grad()
def scores_by_names(scorer: LtadScorer, pictures: Pictures) -> Tensor:
    """(N, K): how abnormal the classifier finds each picture if it is called by each name.

    Swap test: called by another class's, it must tell bad from good ones clearly worse.
    """
    found = []
    for batch in pictures:
        seen, names = scorer.space(scorer.gaze.look(batch)), torch.eye(len(scorer.judge.normal))
        each = []
        for called in names:
            abnormal = scorer.judge.abnormal(seen, called.expand(len(batch), -1))
            heat = F.interpolate(abnormal[:, None], scorer.size, mode="bilinear")
            each.append(image_score(heat[:, 0], scorer.window))
        found.append(torch.stack(each, 1))
    return torch.cat(found)


@torch.no_grad()
def embedded(scorer: LtadScorer, pictures: Pictures) -> Tensor:
    """(N, width), where names are."""
    return torch.cat([scorer.space(scorer.gaze.look(batch)).image for batch in pictures])


def naming_accuracy(scorer: LtadScorer, good: Sequence[Pictures]) -> float:
    """Of good pictures of each class, in the order of names, the share called by their own: the mean."""
    own = [
        (embedded(scorer, pictures) @ scorer.judge.normal.T).argmax(1) == number
        for number, pictures in enumerate(good)
    ]
    return float(torch.stack([each.float().mean() for each in own]).mean())


def with_a_name(scorer: LtadScorer, few: Pictures | None) -> LtadScorer:
    """With a class more, for which it was not fitted: its name, and nothing else, learns from a few pictures.

    Without pictures it is called by no name in particular, the mean of all.
    """
    names = scorer.names
    assert isinstance(names, NameState), "names of a language are learned with its text tower"
    name = names.names.detach().mean(0) if few is None else names.name_for(embedded(scorer, few))
    with torch.no_grad():
        normal, abnormal = (names.tower(state, name[None]) for state in (names.normal, names.abnormal))
    more = Tables(normal, normal, abnormal)
    wider = deepcopy(scorer)
    known = torch.cat([wider.judge.tables, torch.stack(more)], dim=1)
    wider.judge.tables = nn.Parameter(known, requires_grad=False)
    return wider


def shared_state(scorer: LtadScorer) -> Tensor:
    """(K, K): cosines between what "abnormal" changes in names of classes; 1 where it means the same."""
    tables = Tables(*scorer.judge.tables)
    changes = F.normalize(tables.abnormal - tables.normal, dim=1)
    return changes @ changes.T
