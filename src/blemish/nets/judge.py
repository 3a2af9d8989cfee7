"""LTAD's networks as they learn together, and the error that they make of what is seen.

Paper: Ho, Peng and Vasconcelos, "Long-Tailed Anomaly Detection with Learnable Class Names", arXiv 2403.20236:
first names and the generator that they condition, then a reconstruction and a classifier by names.
Ours: both scores in the deviations that good patches have; harmonic fusion is LTOAD's.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.groups import Lite
from blemish.nets.maps import resized
from blemish.nets.namestate import TEMPERATURE, Learned, NameState, Tables, Words, name_loss, shares
from blemish.nets.saliency import size_of
from blemish.nets.semantic import Pseudo, Semantic, semantic_loss
from blemish.nets.space import Gaze, Seen, Space
from blemish.nets.uniad import Error, Reconstruction, image_score, reconstruction_error
from blemish.nets.vae import ConditionalVAE

LEAST = 1e-6
EVEN = 0.05
"""Share of the mean that values are taken to deviate by at least."""
TOLD = slice(None, None, 2)
"""The pictures of a batch that the classifier is shown: half of them do, and take half of the time."""


class Called(NamedTuple):
    maps: Tensor
    images: Tensor
    classes: Tensor
    noise: Tensor
    beta: float


class Calling(nn.Module):
    """Names, and a generator that they condition."""

    def __init__(self, names: NameState | Words, vae: ConditionalVAE | None, gamma: float) -> None:
        super().__init__()
        self.names, self.vae, self.gamma = names, vae, gamma

    @property
    def learns(self) -> bool:
        """A class that is alone needs no name."""
        return self.vae is not None or (self.gamma > 0 and self.names.learned and len(self.names.names) > 1)

    def forward(self, batch: Called) -> Tensor:
        tables = self.names()
        telling = name_loss(batch.images, tables.normal, batch.classes) + self.names.regulariser()
        if self.vae is None:
            return self.gamma * telling
        condition = tables.bare[batch.classes]
        return self.vae.loss(batch.maps, condition, batch.noise, batch.beta) + self.gamma * telling


class Told(NamedTuple):
    """For the classifier: pictures as they are and with something wrong."""

    classes: Tensor
    clean: Seen
    wrong: Pseudo
    overdone: bool
    """Whether the latter are moved away from what they are rebuilt as."""


class Shown(NamedTuple):
    parts: Tensor
    """What is rebuilt."""
    told: Told | None
    seed: int
    """Of what else is drawn."""


class Judging(nn.Module):
    """A reconstruction and a classifier, learning side by side. The generator only stays with them."""

    def __init__(
        self,
        names: NameState | Learned,
        vae: ConditionalVAE | None,
        rm: Reconstruction | None,
        sad: Semantic | None,
    ) -> None:
        super().__init__()
        self.names, self.vae, self.rm, self.sad = names, vae, rm, sad

    def forward(self, noisy: Tensor, batch: Shown) -> Tensor:
        losses, missed, told = [], None, batch.told
        if self.rm is not None:
            rebuilt = self.rm(noisy)
            losses.append(F.mse_loss(rebuilt, batch.parts))
            missed = (batch.parts - rebuilt)[TOLD].detach()
        if self.sad is not None and told is not None:
            odds = self.odds(told.wrong.pushed(missed if told.overdone else None), told.classes)
            where = told.wrong.where
            if self.sad.level == "image":
                where = torch.cat([torch.ones_like(odds), torch.zeros_like(odds)])
                odds = torch.cat([odds, self.odds(told.clean, told.classes)])
            losses.append(semantic_loss(odds, where))
        return torch.stack(losses).sum()

    def odds(self, seen: Seen, classes: Tensor) -> Tensor:
        """(N, h, w): that patches are abnormal ones of their own class."""
        assert self.sad is not None
        tables = self.names()
        found = self.sad(seen.maps, tables.normal, tables.abnormal, seen.patches)
        return found[torch.arange(len(found), device=found.device), classes]


class Judge(nn.Module):
    """What is seen, and the shares by which it shows each class → an error (N, h, w) of every patch."""

    def __init__(
        self,
        tables: Tables,
        rm: Reconstruction | None,
        sad: Semantic | Lite | None,
        *,
        rebuilt: int,
        kind: Error,
        fusion: Literal["sum", "harmonic"] = "sum",
        kappa: float = 1.0,
    ) -> None:
        """`rebuilt`: how many of the parts are. `kappa`: what the semantic score counts beside the other."""
        super().__init__()
        self.rm, self.sad = rm, sad
        self.rebuilt, self.fusion, self.kappa = rebuilt, fusion, kappa
        self.kind: Error = "cos" if fusion == "harmonic" else kind
        self.balance = 1.0
        self.tables = nn.Parameter(torch.stack(tables).detach().clone(), requires_grad=False)

    @property
    def normal(self) -> Tensor:
        return Tables(*self.tables).normal

    def off(self, seen: Seen) -> Tensor:
        """How far patches are from what they are rebuilt as."""
        assert self.rm is not None
        parts = seen.maps[:, : self.rebuilt]
        return reconstruction_error(parts, self.rm(parts), self.kind)

    def abnormal(self, seen: Seen, shares: Tensor) -> Tensor:
        """How likely patches are abnormal, or in closed form how far off they are."""
        assert self.sad is not None
        if isinstance(self.sad, Lite):
            assert seen.compared is not None
            return self.sad(seen.compared, shares)
        tables = Tables(*self.tables)
        odds = self.sad(seen.maps, tables.normal, tables.abnormal, seen.patches)
        return (shares[:, :, None, None] * odds.sigmoid()).sum(1)

    def forward(self, seen: Seen, shares: Tensor) -> Tensor:
        if self.sad is None:
            return self.off(seen)
        if self.rm is None:
            return self.abnormal(seen, shares)
        off, abnormal = self.off(seen), self.abnormal(seen, shares)
        off = resized(off[:, None], size_of(abnormal))[:, 0]
        if self.fusion == "sum":
            return off + self.kappa * self.balance * abnormal
        weight = 1 / (1 + self.kappa)
        return 1 / (weight / off.clamp(min=LEAST) + (1 - weight) / abnormal.clamp(min=LEAST))


class LtadScorer(nn.Module):
    """Pictures → image score, anomaly map and, of several classes, the share by which they look like each."""

    def __init__(
        self,
        gaze: Gaze,
        space: Space,
        judge: Judge,
        *,
        names: nn.Module,
        size: tuple[int, int],
        window: float,
        least: float,
    ) -> None:
        """`least`: from there on the less a picture looks like any class, the less is its share of all."""
        super().__init__()
        self.gaze, self.space, self.judge, self.names = gaze, space, judge, names
        self.size, self.window, self.least = size, window, least
        # Groups differ in how far their patches lie from the middle, and rounding decides which is nearest.
        grouped = isinstance(judge.sad, Lite) and int(judge.sad.middles.shape[2]) > 1
        self.jumps = ("score", "map") if grouped else ()

    def forward(self, pictures: Tensor, classes: Tensor | None = None) -> tuple[Tensor, ...]:
        """`classes` (N, K): ones and zeros where the class is given, else zeros alone."""
        seen, normal = self.space(self.gaze.look(pictures)), self.judge.normal
        found = shares(seen.image, normal)
        used = found if classes is None else classes + (1 - classes.sum(1, keepdim=True)) * found
        error = self.judge(seen, used)
        heat = F.interpolate(error[:, None], self.size, mode="bilinear", align_corners=False)[:, 0]
        told = image_score(heat, self.window), heat
        if len(normal) == 1:
            return told
        strange = (self.least - (seen.image @ normal.T).amax(1, keepdim=True)).clamp(min=0)
        return (*told, found * torch.exp(-strange / TEMPERATURE))


class Deviation:
    """Of the values that classes' patches have, every class counting alike."""

    def __init__(self) -> None:
        self.moments: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """All of one class."""
        values = values.double()
        self.moments.append(torch.stack([values.mean(), values.square().mean()]))

    @property
    def value(self) -> float:
        """Never next to nothing: of pictures as few as two all patches may lie equally far off."""
        mean, square = torch.stack(self.moments).mean(0)
        return float(torch.maximum((square - mean.square()).clamp(min=0).sqrt(), EVEN * mean.abs()))
