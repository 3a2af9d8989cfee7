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
def scores_as(scorer: LtadScorer, pictures: Pictures, name: int) -> Tensor:
    """(N,): how abnormal the classifier finds pictures if they are called by that name.

    Swap test: called by another class's, it must tell bad from good ones clearly worse.
    """
    found = []
    for batch in pictures:
        called = F.one_hot(torch.full((len(batch),), name), len(scorer.judge.normal)).float()
        seen = scorer.space(scorer.gaze.look(batch))
        heat = F.interpolate(scorer.judge.abnormal(seen, called)[:, None], scorer.size, mode="bilinear")
        found.append(image_score(heat[:, 0], scorer.window))
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
