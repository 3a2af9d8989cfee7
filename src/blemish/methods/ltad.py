"""LTAD: one model of many products, some with few pictures; what is normal is told by names learned for them.

Paper: Ho, Peng and Vasconcelos, "Long-Tailed Anomaly Detection with Learnable Class Names", CVPR 2024,
arXiv 2403.20236.
Faithful: a name for each class, learned with a generator of features that it conditions; then, on real and
made features, a reconstruction and a classifier of patches between the texts "normal name" and "damaged
name"; the sum of both scores. With `--vlm kakaobrain/align-base` names go through the paper's model. Its body
could not be read: sizes, schedules and what stands for abnormal patches are UniAD's, or ours.
Ours: without `--vlm` there is no text. A small tower over name and state vectors, learned with the names,
takes its place beside any backbone: "LTAD-style, text-free (adaptation)". But in `paper`, patches are not
classified between texts: they are compared with groups of normal ones of their class, which counts 64 times
as much as the reconstruction, whose misses are judged as in `uniad`. What is made is held to the moments of
its class; a class that is not given is found by its name; harmonic fusion (LTOAD's); and oversampling, to
compare with.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from blemish.data import Sample, Samples
from blemish.errors import UsageError
from blemish.methods import _training, uniad
from blemish.methods._contract import Run, Without
from blemish.methods._features import features, picture_key
from blemish.methods._normal import NormalPatches
from blemish.methods._phases import Judgement, Naming, Sight
from blemish.methods._registry import register
from blemish.nets.distillation import Moments
from blemish.nets.groups import Lite
from blemish.nets.judge import Calling, Deviation, Judge, Judging, LtadScorer
from blemish.nets.language import VisionLanguage, load_language
from blemish.nets.maps import CELL, Stacked, grid_of
from blemish.nets.namestate import Learned, NamesFrom, NameState, Tables, Words
from blemish.nets.semantic import Level, Semantic
from blemish.nets.space import WIDTH, Gaze, Space, to_texts
from blemish.nets.uniad import Error, Reconstruction
from blemish.nets.vae import ConditionalVAE, lacking

TIERS = (
    "tier 0: names through ALIGN's text tower",
    "tier 1: names through the text tower of another vision–language model (adaptation)",
    "tier 2: LTAD-style, text-free (adaptation)",
)
UNREAD = "; patches are compared with normal ones, not with texts"
JUDGED = 32
"""Pictures of a class that tell what is usual."""
FEW = 8
"""Pictures of a class that made ones are compared with."""
CLOSED = 64.0
"""What the closed form counts beside the reconstruction, by default."""
MOSTLY = 16.0
"""From this kappa on the classifier decides, and the reconstruction hardly does."""
SAME = 0.98
"""Cosine of two names from which on they hardly tell two classes apart."""
SMOOTH = 3.0
"""What real features are missed by, by what made ones are, from where on these teach too smooth a normal."""
STRANGE = 0.01
"""Share of training pictures that look less like their class than one must to be surely of it."""


@dataclass(frozen=True, kw_only=True)
class Config(uniad.Config):
    vlm: str = ""
    """A vision–language model, its id on the hub or a folder; without one a backbone, and no text."""
    names: NamesFrom = "learned"
    """What classes are called: learned names, given ones (without text: as they look), or all the same."""
    tokens: int = 4
    """Tokens of a learned name, with a vision–language model."""
    ensemble: bool = False
    """Whether four words for normal and four for damaged are read, not one, with a vision–language model."""
    tower: Literal["trained", "frozen"] = "trained"
    """Whether what stands for the text tower learns with the names, without a vision–language model."""
    name_updates: int = 150
    """Updates of names and generator, at least."""
    name_epochs: int = 0
    """Passes over as many images as there are that these updates make, at least."""
    name_batch: int = 32
    """Images in such an update."""
    name_rate: float = 1e-3
    """Learning rate of the generator; names have five times as much."""
    gamma: float = 1.0
    """How much it counts that names tell classes apart, beside what the generator asks of them."""
    vae: bool = True
    """Whether features are made for classes that have few pictures."""
    vae_width: int = 64
    """Channels of the generator, and length of its latent vectors."""
    rho: float = 0.5
    """Share of made features in an update."""
    oversample: bool = False
    """To compare with: the pictures of rare classes again, in place of made features."""
    score_of: Literal["both", "rm", "sad"] = "both"
    """Reconstruction and semantic classifier, or only one of them."""
    semantic: Literal["lite", "learned"] = "lite"
    """The classifier: between texts as in the paper, or in closed form from what is usual in a class."""
    groups: int = 512
    """Groups of a class's normal patches, by either of two ways to group them; 0: only the mean of all."""
    sad_cell: int = 8
    """Side in pixels of what the closed form takes for a patch; all else is learned on cells of 16."""
    levelled: float = 0.75
    """Share of a picture's mean patch that is taken off all of them before the closed form compares: what
    changes all of a picture alike is rather another light than a defect."""
    swayed: float = 1.0
    """How much it counts there how a patch changes with light, focus and noise, beside how patches differ."""
    sad_level: Level = "patch"
    """What the classifier is shown: each patch, or the mean of all."""
    sad_hidden: int = 256
    """Units of the projection to names that learn what is no sum of channels; 0: a linear one."""
    sad_rate: float = 2.5e-3
    """Learning rate of the learned classifier."""
    kappa: float | Literal["auto"] = "auto"
    """What the semantic score counts beside the other, both in the deviations that good patches have;
    `auto`: 64 in closed form, and as much as the other if it is learned."""
    fusion: Literal["sum", "harmonic"] = "sum"
    """How both scores become one; `harmonic` compares directions, as `--rec-score cos` does."""
    rec_score: Error = "both"
    """How far off a patch is: `l2` its distance, `sq` the square of it, `cos` half of one minus the cosine,
    `both` the distance times that."""
    agnostic: bool = False
    """Whether the class of a picture is found out even where it is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        leasts = {"tokens": 1, "name_updates": 1, "name_batch": 1, "name_epochs": 0, "sad_hidden": 0}
        leasts |= {"gamma": 0, "groups": 0, "swayed": 0, "sad_cell": 1, "name_rate": 0, "sad_rate": 0}
        leasts |= {} if self.kappa == "auto" else {"kappa": 0}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if self.sad_cell > CELL:
            raise UsageError(f"sad_cell is {self.sad_cell}: give at most {CELL}, the cell of all else.")
        if not 0 <= self.levelled <= 1:
            raise UsageError(f"levelled is {self.levelled}: give a share from 0 to 1.")
        if not 0 <= self.rho < 1:
            raise UsageError(f"rho is {self.rho}: give a share from 0 to below 1.")
        if self.vae_width < 8 or self.vae_width % 8:
            raise UsageError(f"vae_width is {self.vae_width}: give a multiple of 8.")
        harmonic = self.fusion == "harmonic"
        own_cells, own_hidden = (
            self.vlm and getattr(self, name) != getattr(Config, name) for name in ("sad_cell", "sad_hidden")
        )
        for wrong, sentence in (
            (harmonic and self.score_of != "both", "Harmonic fusion asks both scores: leave --score-of out."),
            (
                harmonic and self.semantic != "learned",
                "Harmonic fusion asks for scores between 0 and 1: choose --semantic learned.",
            ),
            (
                self.sad_level == "image" and self.semantic != "learned",
                "Only the learned classifier is shown whole pictures: choose --semantic learned.",
            ),
            (self.vlm and self.taps, "A vision–language model has no taps to choose: leave --taps out."),
            (own_cells, "A vision–language model has patches of its own: leave --sad-cell out."),
            (own_hidden, "With a vision–language model the projection is linear: leave --sad-hidden out."),
            (self.ensemble and not self.vlm, "Without a text no words are read: leave --ensemble out."),
            (
                self.tokens != Config.tokens and not self.vlm,
                "Without a text a name has no tokens: leave --tokens out.",
            ),
            (
                self.kappa != "auto" and self.score_of != "both",
                "Kappa weighs one score against the other: leave --kappa out, or --score-of.",
            ),
            (
                self.vlm and self.tower == "frozen",
                "A vision–language model's text tower is frozen anyway: leave --tower out.",
            ),
        ):
            if wrong:
                raise UsageError(sentence)

    @property
    def counted(self) -> float:
        """Kappa as a number."""
        if self.kappa != "auto":
            return self.kappa
        return CLOSED if self.semantic == "lite" else 1.0

    def name_updates_for(self, images: int) -> int:
        return max(self.name_updates, ceil(self.name_epochs * images / self.name_batch))


PAPER: dict[str, Any] = {
    **uniad.PAPER,
    "vlm": "kakaobrain/align-base",
    "standardised": True,
    "rec_score": "sq",
    "semantic": "learned",
    "sad_rate": 1e-3,
    "name_updates": 3000,
    "name_epochs": 100,
    "name_batch": 64,
    "vae_width": 128,
}


@register
class LTAD:
    name: ClassVar[str] = "ltad"
    Config: ClassVar[type] = Config
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {},
        "full": {"updates": 2400, "patience": 12, "name_updates": 600, "vae_width": 128, "groups": 1024},
        "paper": PAPER,
    }
    outputs: tuple[str, ...] = ("pred_score", "anomaly_map")
    notes: ClassVar[dict[str, str]] = {}
    paints = False
    told_classes = 0
    trains = True

    def __init__(self, config: Any) -> None:
        self.config = config
        self.chosen: dict[str, Any] = {}

    def fit(self, train: Samples, run: Run) -> LtadScorer:
        self.look(train, run)
        naming, judgement = self.tasks(train, run)
        same = {id(each): each for each in (self.gaze.tower, run)}
        expected = sum(
            _training.probe(deepcopy(task, dict(same)), run).seconds * task.updates
            for task in (naming, judgement)
            if task.updates
        )
        self.chosen["expected_seconds"] = round(expected)
        run.say(
            f"Learning from {len(train)} images of {len(train.classes)} "
            f"product{'s' if len(train.classes) > 1 else ''}, {self.chosen['tier_in_words']}: "
            f"{naming.updates} updates of names and {judgement.updates} of what judges, about "
            f"{expected:.0f} s for these at most."
        )
        if len(train.classes) > 1:
            run.say(
                "A model for each product may be better, and is on real parts so far: compare with "
                "`blemish fit DATA --class NAME --method knn`."
            )
        pictures = "".join(f"{sample.klass} {picture_key(run.picture(sample))} " for sample in train)
        key = _training.key(self.name, self.config, pictures.encode(errors="surrogateescape"), run)
        self.shipped = self.learned(naming, judgement, train, run, key)
        return self.shipped

    @property
    def without(self) -> Without | None:
        """What rebuilds has then seen the pictures, which must count little."""
        config = self.config
        counts = config.score_of != "sad" and (config.score_of == "rm" or config.counted < MOSTLY)
        return None if counts or config.semantic != "lite" else self.forgetting

    def leave_one_out(self, train: Samples, run: Run, alone: Samples) -> Iterator[nn.Module]:
        if without := self.without:
            yield from (without(train, [sample]) for sample in alone)
            return
        apart = replace(run, checkpoint=None, resume=False)
        # A class of one image is in both halves: there would be no name for it.
        lone = [part[0] for part in map(train.klass, train.classes) if len(part) == 1]

        def fitted(rest: Samples) -> LtadScorer:
            names = {sample.name for sample in (*rest, *lone)}
            rest = train.with_items(sample for sample in train if sample.name in names)
            return self.learned(*self.tasks(rest, apart), rest, apart, {})

        yield from _training.each_half(train, alone, fitted)

    def forgetting(self, train: Samples, left: Sequence[Sample]) -> LtadScorer:
        """The scorer, as if its classifier did not know these; all of a product it must."""
        scorer = deepcopy(self.shipped, {id(self.gaze): self.gaze})
        sad, names = scorer.judge.sad, {sample.name for sample in left}
        part = train.klass(left[0].klass)
        rest = part.with_items(each for each in part if each.name not in names)
        if isinstance(sad, Lite) and rest:
            self.patches.put_again(sad, train.classes.index(left[0].klass), rest)
        return scorer

    def look(self, train: Samples, run: Run) -> None:
        """What the tower sees of every picture: found once."""
        config = self.config
        tower: Stacked | VisionLanguage
        compared, channels = config.semantic == "lite" and config.score_of != "rm", run.format.channels
        if config.vlm:
            if run.backbone != "lite0" or run.weights is not None:
                raise UsageError(f"{config.vlm} looks in place of a backbone: leave {run.backbone} out.")
            tower, grid = load_language(config.vlm), None
            self.tier, licence = tower.tier, tower.licence
        else:
            grid = grid_of(run.size)
            own = grid_of(run.size, config.sad_cell) if compared else grid
            tower = Stacked(run.load_backbone().requires_grad_(False), config.taps, own)
            self.tier, licence = 2, tower.backbone.licence
        self.language = tower if isinstance(tower, VisionLanguage) else None
        self.gaze = Gaze(tower, channels, run.size, grid, config.levelled if compared else None)
        self.found = features(self.gaze, train, run)
        if compared:
            stages = tower.widths(channels, run.size) if isinstance(tower, Stacked) else tower.widths
            told = {"stages": stages, "groups": config.groups, "swayed": config.swayed}
            self.patches = NormalPatches(self.gaze, self.found, train, run, **told)
        words = TIERS[self.tier]
        if config.vlm:
            self.chosen["backbone"] = config.vlm
            words += UNREAD if compared else ""
        self.chosen |= {"tier": self.tier, "tier_in_words": words, "weights_licence": licence}
        if len(train.classes) > 1:
            self.outputs = (*type(self).outputs, "class_scores")
            # A reconstruction is the same whatever the class.
            asked = not config.agnostic and config.score_of != "rm"
            self.told_classes = len(train.classes) if asked else 0

    def tasks(self, train: Samples, run: Run) -> tuple[Naming, Judgement]:
        config = self.config
        usual = [self.moments(train.klass(name)) for name in train.classes]
        width = WIDTH if self.language is None else self.language.width
        space = Space.of(usual, width=width, standardised=config.standardised, whiten=config.whiten)
        sight = Sight(self.gaze, space, self.found)
        learning, _ = uniad.spared(train, run.seed, wanted=config.check_every > 0)
        counts = [len(learning.klass(name)) for name in train.classes]
        names: NameState | Words
        if self.language is None:
            names = NameState(
                space.looks(usual), counts, naming=config.names, tower=config.tower, seed=run.seed
            )
        else:
            settings = {"tokens": config.tokens, "ensemble": config.ensemble, "seed": run.seed}
            names = Words(self.language, train.classes, naming=config.names, **settings)
        rm, sad, vae = self.networks(sight, train, run)
        used = rm is not None or sad is not None  # what is made teaches them
        made = used and config.vae and config.rho and not config.oversample and lacking(counts) is not None
        calling = Calling(names, vae if made else None, config.gamma)
        known = names if isinstance(names, NameState) else Learned(len(counts), space.width)
        return (
            Naming(calling, sight, learning, config, run.seed),
            Judgement(Judging(known, calling.vae, rm, sad), sight, train, config, run.seed),
        )

    def moments(self, samples: Samples) -> list[Moments]:
        """Of what is seen of a class: maps, and patches where there are any."""
        rows = (self.gaze.seen(self.found.batch([sample])) for sample in samples)
        return Moments.of([part[0] for part in seen[:2] if part is not None] for seen in rows)

    def networks(
        self, sight: Sight, train: Samples, run: Run
    ) -> tuple[Reconstruction | None, Semantic | None, ConditionalVAE]:
        config, space = self.config, sight.space
        channels, own = len(space.deviations), len(space.own_mean)
        learned, start = config.score_of != "rm" and config.semantic == "learned", None
        if learned and self.language is not None and not self.language.patches_in_text_space:
            start = to_texts((sight.of([sample]) for sample in train.klass(name)) for name in train.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            rm = config.transformer(min(config.kept or channels, channels), self.gaze.grid)
            hidden = 0 if own else config.sad_hidden
            sad = Semantic(
                space.deviations, space.width, hidden=hidden, own=own, start=start, level=config.sad_level
            )
            vae = ConditionalVAE(
                channels + own, self.gaze.grid, space.width, width=config.vae_width, latent=config.vae_width
            )
        return (None if config.score_of == "sad" else rm), (sad if learned else None), vae

    def learned(
        self, naming: Naming, judgement: Judgement, train: Samples, run: Run, key: dict[str, Any]
    ) -> LtadScorer:
        """Both phases. Their checkpoints share a file: that of the second holds the first's result."""
        network, second = judgement.network, {**key, "phase": 2}
        done = _training.reached(run, second)
        if done:
            network.load_state_dict(done)
        else:
            if naming.updates:
                _training.train(naming, run, {**key, "phase": 1})
            if isinstance(network.names, Learned):
                network.names.keep(naming.network.names())
        judgement.begin()
        going_on = replace(run, resume=run.resume and (bool(done) or not naming.updates))
        losses = _training.train(judgement, going_on, second) if judgement.updates else []
        self.chosen |= _training.told(losses)
        return self.scorer(judgement, train, run)

    @torch.no_grad()
    def scorer(self, task: Judgement, train: Samples, run: Run) -> LtadScorer:
        """Both scores are brought to one scale by what good training pictures have, each class alike."""
        config, network, sight = self.config, task.network, task.sight
        tables = network.names()
        closed = config.score_of != "rm" and config.semantic == "lite"
        sad = self.patches.closed_form(train) if closed else network.sad
        judge = Judge(
            tables,
            network.rm,
            sad,
            rebuilt=config.kept or len(sight.space.deviations),
            kind=config.rec_score,
            fusion=config.fusion,
            kappa=config.counted,
        )
        off, abnormal, alike = Deviation(), Deviation(), []
        for number, name in enumerate(train.classes):
            seen = sight.of(train.klass(name)[:JUDGED])
            own = torch.eye(len(tables.normal))[number].expand(len(seen.maps), -1)
            if network.rm is not None:
                off.add(judge.off(seen))
            if sad is not None:
                abnormal.add(judge.abnormal(seen, own))
            alike.append(seen.image @ tables.normal[number])
        if off.moments and abnormal.moments:
            judge.balance = off.value / max(abnormal.value, 1e-12)
        self.chosen["balance"] = judge.balance
        self.look_again(task, judge, run)
        least = float(torch.cat(alike).quantile(STRANGE))
        told = {"names": network.names, "size": run.size, "window": config.window, "least": least}
        return LtadScorer(sight.gaze, sight.space, judge, **told).eval()

    @torch.no_grad()
    def look_again(self, task: Judgement, judge: Judge, run: Run) -> None:
        """At what goes wrong silently: names that fell together, and made features that are too smooth."""
        names, table = task.names, Tables(*judge.tables).bare
        between = (table @ table.T).fill_diagonal_(-1)
        self.chosen["names_alike"] = alike = round(float(between.max()), 3)
        if alike > SAME:
            first, second = (names[place] for place in divmod(int(between.argmax()), len(names)))
            run.say(
                f"The names of {first} and {second} are nearly the same (a cosine of {alike:.3f}): tell "
                "which one a picture shows with `blemish inspect --class`."
            )
        if task.synthesis is None or judge.rm is None:
            return
        ratios = {
            name: round(float(judge.off(task.sight.of(part[:FEW])).mean() / judge.off(made).mean()), 2)
            for name, part, made in zip(names, task.products, task.made(FEW), strict=True)
            if len(made.maps)
        }
        self.chosen["real_by_made"] = ratios
        worst = max(ratios, key=ratios.__getitem__, default="")
        if worst and ratios[worst] > SMOOTH:
            run.say(
                f"What is made of {worst} is rebuilt {ratios[worst]:.1f} times as well as real pictures: it "
                f"teaches too smooth a normal. A lower --rho than {self.config.rho:g} makes less of it."
            )

    def weights(self, scorer: LtadScorer) -> dict[str, Tensor]:
        state = scorer.state_dict()
        return {
            name: value.cpu().contiguous() for name, value in state.items() if not name.startswith("gaze.")
        }

    def facts(self) -> dict[str, Any]:
        return dict(self.chosen)
