"""FractalAD: a segmentation head that learns on fractal anomalies where a teacher and a student disagree.

Paper: Xia, Lv, He, Li, Liu and Ding, "FractalAD: A simple industrial anomaly detection method using fractal
anomaly generation and backbone knowledge distillation", arXiv 2301.12739.
Faithful: the anomalies, the student that learns the teacher's direction on clean pictures only, the attention
by their cosine, SFNet with its losses, the mean of the map as image score, and in the preset `paper` the
published schedule.
Ours: the student of `fast` is no network but a codebook, which answers at each place with what good pictures
have that is most like the teacher's map there. How far each place is from all that good pictures
have is added to what the head says, which knows less of anomalies that were not painted. Whether there is a
student at all in `paper`, and whether anomalies lie on an object, is found out for each product (the code
lists both by name). Faint defects of other kinds, painted on good pictures kept aside, tell when to stop. In
`fast` and `full` batches are smaller and the learning rate falls. Score and map are log-odds.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from blemish.data import Sample, Samples
from blemish.defects import FractalMaker, Source, faint, has_one_object, make
from blemish.errors import UsageError
from blemish.memory.codebook import Codes
from blemish.memory.strangeness import Remembered, Strangeness, means
from blemish.methods import _training
from blemish.methods._contract import Run, in_turn
from blemish.methods._once import TrainsOnce
from blemish.methods._registry import register
from blemish.nets.distillation import (
    Codebook,
    Flat,
    Seeing,
    Stages,
    Student,
    View,
    placed,
    stage_taps,
    unflattened,
    widths,
)
from blemish.nets.runtime import Compiled
from blemish.nets.sfnet import Pair, SFNet, image_score, segmentation_loss

JUDGED = 48
"""Faint defects painted on these."""
PLACED = 0.4
"""Share of what the teacher sees that the place in the picture explains, from which on it is no texture."""
CODED = 40_000
"""Vectors of a stage that its codebook is made from."""
LOOKED_AT = 64
"""Pictures that the share is found on."""
LIKE_THESE = 16
"""Good pictures that tell how much head and distances vary, where none are kept aside."""


@dataclass(frozen=True, kw_only=True)
class Config:
    updates: int = 300
    """Updates of head and student, at most."""
    batch: int = 8
    """Pictures in an update, each clean and with an anomaly."""
    learning_rate: float = 1e-3
    """Of the first update."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on; the paper's stays as it is."""
    student: Literal["codebook", "network", "off", "auto"] = "codebook"
    """Who knows what the teacher makes of good pictures; `auto`, as in the paper: a network, or nobody."""
    objects: Literal["auto", "on", "off"] = "auto"
    """Whether anomalies lie on the object; `auto`: where one stands out from its background."""
    view: View = "ws"
    """What the head is shown: teacher `t`, student `s`, either weighted `w` by how far they disagree, …"""
    strangeness: float = 2.0
    """What the distance to remembered patches counts beside the head, both as they vary in good pictures."""
    score: Literal["mean", "max", "top1", "q995"] = "max"
    """Image score from the map: its mean, maximum, mean of the top 1 %, or 99.5 % quantile."""
    silhouette: Literal["fractal", "square", "ellipse", "perlin", "diamond_square"] = "fractal"
    """Outline of the anomalies."""
    recolour: Literal["mixed", "mild", "harsh", "channels", "none"] = "mixed"
    """How the pasted piece is recoloured; the paper mixes three ways."""
    noise: bool = True
    """Whether every other anomaly gets noise."""
    dilation: int = 3
    """Pixels by which masks are larger than what was pasted."""
    maps: int = 2
    """Affine maps of a fractal, from 2 to this number."""
    brush: Literal["native", "working"] = "native"
    """At which size fractals are drawn: that of the files, or the smaller one that is worked at."""
    codes: int = 512
    """Vectors of a stage that the codebook remembers."""
    width: int = 0
    """Channels of the head; 0: those of the first stage."""
    check_every: int = 50
    """Updates between two looks at anomalies on good pictures kept aside; 0: none."""
    patience: int = 3
    """Looks without a better one after which training ends."""
    pool: int = 1000
    """Unless a network is the student, anomalies that are drawn; then they come again."""
    compat: bool = False
    """As in the published code: each fractal drawn anew, and colours pasted on grey products."""

    def __post_init__(self) -> None:
        leasts = {
            "updates": 1,
            "batch": 1,
            "dilation": 0,
            "maps": 2,
            "width": 0,
            "check_every": 0,
            "codes": 2,
            "strangeness": 0,
        }
        for name, least in {**leasts, "patience": 1, "pool": 0}.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate}: give a number above 0.")


PAPER: dict[str, Any] = {
    "updates": 1200,
    "batch": 32,
    "schedule": "constant",
    "student": "auto",
    "strangeness": 0.0,
    "score": "mean",
    "pool": 0,
    "check_every": 0,
}


class Batch(NamedTuple):
    """Clean and pasted pictures, where a student learns from them, and what the teacher says of them.

    Beside a student that does not learn it is what the head is shown of them.
    """

    clean: Tensor
    pasted: Tensor
    masks: Tensor
    of_clean: list[Tensor]
    of_pasted: list[Tensor]


class Painted(NamedTuple):
    clean: Tensor
    pasted: Tensor
    mask: Tensor
    rows: Tensor
    """The maps of both, as one row each; of the pasted one alone where no student learns."""


class Judged(NamedTuple):
    """Good pictures kept aside, then painted ones."""

    pictures: Tensor
    masks: Tensor
    rows: Tensor


class FractalScorer(nn.Module):
    """Score and map as log-odds, which rank alike: within 0..1 no threshold could be extrapolated."""

    def __init__(self, teacher: Stages, pair: Pair, kind: str) -> None:
        super().__init__()
        self.teacher, self.pair, self.kind = teacher, pair, kind
        self.seeing = Seeing(teacher, pair.student, pair.view)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.teacher(pictures)
        logits = self.head(pictures, maps)
        if self.pair.strange is not None:
            logits = logits + self.pair.strange(maps, self.pair.size)
        return image_score(self.kind, logits), logits

    def head(self, pictures: Tensor, maps: list[Tensor]) -> Tensor:
        return self.pair.head(self.seeing.shown(pictures, maps), self.pair.size)[:, 0]

    @torch.no_grad()
    def settle(self, good: Tensor, other: Strangeness, weight: float) -> None:
        """Make distances count as told: `other` remembers none of these pictures."""
        maps = self.teacher(good)
        deviation = weight * float(self.head(good, maps).std())
        self.pair.strange.settle(other.distances(maps, self.pair.size), deviation)


class Segmenting(_training.Task):
    """Find the anomalies; the student learns beside it what good pictures look like to the teacher."""

    label = "learning"
    network: Pair

    def __init__(self, teacher: Stages, train: Samples, config: Config, run: Run, network: Pair) -> None:
        self.teacher, self.config, self.run, self.network = teacher, config, run, network
        self.updates, self.patience = config.updates, config.patience
        self.train, self.aside = _training.kept_aside(train, run.seed, wanted=config.check_every > 0)
        self.check_every = config.check_every if self.aside else 0
        self.source = run.source(self.train)
        self.maker = maker_of(config, self.source)
        self.learns = isinstance(network.student, Student)
        self.looks = teacher if self.learns else Seeing(teacher, network.student, network.view)
        self.shapes = self.looks.shapes(run.format.channels, run.size)
        most = int(run.memory_mb * 1e6 / (2 * sum(shape.numel() for shape in self.shapes)))
        self.pool = 0 if self.learns else min(config.pool, most)
        self.held: dict[int, Painted] = {}

    def seconds(self) -> float:
        """How long all updates will take, at most."""
        one, drawn = _training.probe(deepcopy(self, {id(self.run): self.run}), self.run), self.updates
        if self.pool:
            drawn = min(drawn, math.ceil(self.pool / self.config.batch))
        return self.updates * one.seconds + drawn * one.drawing

    @cached_property
    def compiled(self) -> Compiled:
        return Compiled(Flat(self.looks), self.run.format.channels, self.run.size, self.device)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def optimiser(self) -> torch.optim.Optimizer:
        # Without a student the published code forgets to pass its decay on.
        decay = 1e-3 if isinstance(self.network.student, Student) else 1e-2
        learning = [each for each in self.network.parameters() if each.requires_grad]
        return torch.optim.AdamW(learning, lr=self.config.learning_rate, weight_decay=decay)

    def rate(self, update: int) -> float:
        if self.config.schedule == "constant":
            return self.config.learning_rate
        return _training.cosine(self.config.learning_rate, update, self.updates)

    def phase(self, update: int) -> None:
        self.network.train()

    def draw(self, update: int, forward: int) -> Batch:
        start = (update - 1) * self.config.batch
        numbers = range(start, start + self.config.batch)
        return self.together(
            [self.painted(number % self.pool if self.pool else number) for number in numbers]
        )

    def painted(self, number: int) -> Painted:
        """Where no student learns the same few come again and again, and nobody need look at them twice."""
        if number in self.held:
            return self.held[number]
        turn, rank = divmod(number, len(self.train))
        picture = int(np.random.default_rng([self.run.seed, turn]).permutation(len(self.train))[rank])
        made = self.paint(self.train[picture], picture, epoch=turn)
        if self.pool:
            none = torch.empty(0)
            self.held[number] = made = Painted(none, none, made.mask, made.rows[-1:].half())
        return made

    def paint(self, sample: Sample, picture: int, *, epoch: int) -> Painted:
        made = make(self.maker, self.source, picture, seed=self.run.seed, epoch=epoch)
        both = np.concatenate([self.run.repainted(sample, view) for view in made.views])
        rows = self.compiled(both if self.learns else both[1:])
        clean, pasted = torch.from_numpy(both)
        return Painted(clean, pasted, torch.from_numpy(made.masks[1])[None], rows)

    def together(self, some: list[Painted]) -> Batch:
        clean, pasted, masks = (torch.stack([one[part] for one in some]) for part in range(3))
        rows = torch.stack([one.rows for one in some]).float()
        of_clean, of_pasted = (unflattened(rows[:, side], self.shapes) for side in (0, -1))
        return Batch(clean, pasted, masks.float(), of_clean, of_pasted)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        off, logits = network(batch.clean, batch.pasted, batch.of_clean, batch.of_pasted)
        return off + segmentation_loss(logits, batch.masks)

    @cached_property
    def judged(self) -> Judged:
        painted = faint(self.run.source(self.aside), JUDGED, seed=self.run.seed)
        views = [
            self.run.repainted(self.aside[number], picture)
            for picture, number in zip(painted.pictures, painted.numbers, strict=True)
        ]
        pictures = np.concatenate([self.run.pixels(self.aside), *views])
        masks = np.concatenate([np.zeros((len(self.aside), *self.run.size), bool), painted.masks])
        rows = torch.cat([self.compiled(picture[None]) for picture in pictures])
        parts = torch.from_numpy(pictures), torch.from_numpy(masks), rows
        return Judged(*(part.to(self.device) for part in parts))

    def check(self) -> float:
        """How badly the map finds faint defects of REB's kinds, which are never trained on."""
        heat = self.network.logits(self.judged.pictures, unflattened(self.judged.rows, self.shapes))
        return 1 - average_precision(heat.flatten().cpu(), self.judged.masks.flatten().cpu())


def average_precision(scores: Tensor, truth: Tensor) -> float:
    found = truth[scores.argsort(descending=True)].double()
    precision = found.cumsum(0) / torch.arange(1, len(found) + 1)
    return float((precision * found).sum() / found.sum())


def maker_of(config: Config, source: Source) -> FractalMaker:
    objects = has_one_object(source) if config.objects == "auto" else config.objects == "on"
    return FractalMaker(
        silhouette=config.silhouette,
        recolour=config.recolour,
        noise=config.noise,
        dilation=config.dilation,
        maps=(2, config.maps),
        brush=config.brush,
        objects=objects,
        compat=config.compat,
    )


@register
class FractalAD(TrainsOnce):
    name: ClassVar[str] = "fractalad"
    Config: ClassVar[type] = Config
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {},
        "full": {"updates": 2000, "patience": 6},
        "paper": PAPER,
    }

    @property
    def paints(self) -> bool:
        return True

    def fit(self, train: Samples, run: Run) -> FractalScorer:
        task = self.prepared(train, run)
        seconds = task.seconds()
        self.chosen |= {
            "objects": task.maker.objects,
            "silhouette": task.maker.silhouette,
            "expected_seconds": round(seconds),
        }
        run.say(self.words(train, task, seconds))
        return self.learned(task, run, task.source)

    def prepared(self, train: Samples, run: Run) -> Segmenting:
        backbone = run.load_backbone().requires_grad_(False)
        self.teacher = Stages(backbone, stage_taps(backbone))
        self.chosen |= {"weights_licence": backbone.licence, **self.student_pays(train, run)}
        return self.task(train, run)

    def scorer(self, task: Segmenting, run: Run) -> FractalScorer:
        pair, good = task.network.cpu(), task.aside
        scorer, other = FractalScorer(self.teacher, pair, self.config.score).eval(), pair.strange
        if other is not None:
            if not good:  # too few to keep some aside: what half of them say of the others
                halves = [half or task.train for half in (task.train[::2], task.train[1::2])]
                other = self.strangeness(self.vectors(halves[0], run)[1])
                good = halves[1][:LIKE_THESE]
            scorer.settle(torch.from_numpy(run.pixels(good)), other, self.config.strangeness)
        return scorer

    def words(self, train: Samples, task: Segmenting, seconds: float) -> str:
        student = {
            "codebook": "a head, on how pictures differ from what good ones have",
            "network": "a student and a head",
            "off": "a head alone",
        }[self.chosen["student"]]
        why = f" ({self.chosen['student_why']})" if self.config.student == "auto" else ""
        return (
            f"Learning from {len(train)} images: {student}{why}; anomalies "
            f"{'on the object' if task.maker.objects else 'anywhere'}; {task.updates} updates of "
            f"{self.config.batch}, about {seconds:.0f} s at most."
        )

    def task(self, train: Samples, run: Run) -> Segmenting:
        config, taps, strange = self.config, self.teacher.taps, None
        if config.strangeness or self.chosen["student"] == "codebook":
            known, _ = _training.kept_aside(train, run.seed, wanted=config.check_every > 0)
            single, averages = self.vectors(known, run)
            strange = self.strangeness(averages) if config.strangeness else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            student: Student | Codebook | None = None
            if self.chosen["student"] == "network":
                student = Student(Stages(self.teacher.backbone.fresh(), taps))
            elif self.chosen["student"] == "codebook":
                student = self.codebook(single, run)
            channels = [shape[0] for shape in self.teacher.shapes(run.format.channels, run.size)]
            shown = channels if student is None else widths(config.view, channels)
            head = SFNet(shown, config.width or channels[0])
        pair = Pair(student, head, strange, view=config.view, size=run.size)
        pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Segmenting(self.teacher, train, config, run, pair)

    def codebook(self, vectors: Sequence[Tensor], run: Run) -> Codebook:
        return Codebook([Codes.of(found, self.config.codes, seed=run.seed) for found in vectors])

    def strangeness(self, averages: Sequence[Tensor]) -> Strangeness:
        """In the stages that patch vectors are made of."""
        taps = self.teacher.taps
        middle = [taps.index(tap) for tap in self.teacher.backbone.default_taps if tap in taps]
        stages = middle or [len(taps) - 1]
        return Strangeness(stages, [Remembered.of(averages[stage], self.config.codes) for stage in stages])

    def vectors(self, train: Samples, run: Run) -> tuple[list[Tensor], list[Tensor]]:
        """Of each stage those of some places of every picture, and their 3×3 means."""
        shapes = self.teacher.shapes(run.format.channels, run.size)
        found: tuple[list[list[Tensor]], ...] = [[] for _ in shapes], [[] for _ in shapes]
        maps = run.outputs(run.compiled(Flat(self.teacher)), train, "looking")
        for number, row in enumerate(maps):
            rng = np.random.default_rng([run.seed, number])
            for stage, x in enumerate(unflattened(row[None], shapes)):
                few = rng.permutation(x.shape[2] * x.shape[3])[: -(-CODED // len(train))]
                places = torch.from_numpy(few)
                for seen, some in zip((x.flatten(2).transpose(1, 2), means(x)), found, strict=True):
                    some[stage].append(seen[0, places])
        single, averages = ([torch.cat(some) for some in stages] for stages in found)
        return single, averages

    def student_pays(self, train: Samples, run: Run) -> dict[str, Any]:
        """On a texture the teacher's maps alone do better, says the paper's code, and listed the textures."""
        if self.config.student != "auto":
            return {"student": self.config.student, "student_why": "it was asked for"}
        few = train.with_items(train[number] for number in sorted(in_turn(train)[:LOOKED_AT]))
        if has_one_object(run.source(few)):
            return {"student": "network", "student_why": "an object stands out from its background"}
        rows = run.outputs(run.compiled(Flat(self.teacher)), few, "looking")
        shapes = self.teacher.shapes(run.format.channels, run.size)
        share = placed([unflattened(row[None], shapes)[-1][0] for row in rows])
        why = f"the place in the picture explains {100 * share:.0f} % of what the teacher sees"
        return {"student": "network" if share >= PLACED else "off", "student_why": why}

    def weights(self, scorer: FractalScorer) -> dict[str, Tensor]:
        return {name: value.cpu().contiguous() for name, value in scorer.pair.state_dict().items()}
