"""EAR: what looks suspicious is taken out of the picture, filled in from the rest, and compared.

Paper: Park, Kang, Kim, Lee, Kim and Yi, "Excision and Recovery: Enhancing Surface Anomaly Detection with
Attention-based Single Deterministic Masking", arXiv 2310.04010 v1; `--variant mosaic`: its later version.
Faithful: one mask a picture from a pre-trained attention that nothing random sways, the mean plus 0.674
deviations as its threshold, a U-Net trained with all skips (in `paper` used without the shallow ones), one
pass, the highest value of the map as score and, in `paper`, MSGMS as what the map is of. The papers' bodies
could not be read: widths, losses, schedule and which skips are off are those of the first author's public
code for RIAD, or ours.
Ours: in `fast` and `full` the map tells how far what a backbone sees of the picture is from what it sees of
the reconstruction lets expect, and from how far off good pictures were; the loss has how far the two are
apart. The attention learned from drawn glyphs instead of MNIST's digits, and looks at half the size, with the
local mean taken off; training in swayed light; good pictures kept aside tell which weights count, and
defects painted on them how many skips are off; widths and updates for two CPU cores; in `full` three U-Nets,
averaged; remedies for skips that are off; to compare with, random masks, no masks, RIAD's twelve passes.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.data import Samples
from blemish.defects import Faint, faint
from blemish.errors import UsageError
from blemish.memory.patches import PatchVectors
from blemish.memory.surprise import Surprise, settle
from blemish.methods import _training
from blemish.methods._conditions import relit
from blemish.methods._contract import Run, in_turn
from blemish.methods._excision import Each, EarScorer, Filling, First, Likeness, Pairs, Passes
from blemish.methods._features import picture_key
from blemish.methods._inpainting import LEVELS, SIZES, Inpainting, first_off
from blemish.methods._once import TrainsOnce
from blemish.methods._registry import register
from blemish.nets.attention import Attention
from blemish.nets.masking import Constant, Fill, Hiding, Masking, reduced
from blemish.nets.reconstruction import (
    Msgms,
    Parts,
    Region,
    Riad,
    Smooth,
    Summary,
    random_squares,
)
from blemish.nets.saliency import ClassToken, DifferenceOfGaussians, FeatureNorm, SpectralResidual
from blemish.nets.unet import UNet, mean_skips, recalibrate, sliced

SHALLOW = (2, 1, 0)
"""Skips that may be off in inspection: fine detail, and with it a fine defect, must not leak through; but
what is off is also missing where nothing is wrong."""
PAINTED, OPACITY = 64, (0.8, 1.0)
"""Defects that both are chosen by: fainter ones are lost in what differs between pixels of good pictures."""
ENOUGH = 8
"""Pictures kept aside that tell how far good ones differ; of fewer all pictures are asked."""
SMALLEST = 17
"""Pixels; of fewer the U-Net's deepest map has a single cell, of which no variance can be taken."""
LOOKED_AT, MEASURED = 96, 32
"""Good pictures that tell what to expect of a rebuilt one, and how far what is seen of them varies."""

Hide = Literal["attention", "random", "riad", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Config:
    variant: Literal["v1", "mosaic"] = "v1"
    """`mosaic`, the later version: what is hidden is made coarse instead of emptied, and all skips are on."""
    updates: int = 200
    """Updates of a U-Net, at most."""
    members: int = 1
    """U-Nets that learn beside one another, each from its own beginning; what they rebuild is averaged."""
    batch: int = 4
    """Pictures in an update."""
    learning_rate: float = 1e-3
    """Of the first update; it falls along a cosine."""
    width: int = 8
    """Channels of the U-Net's first level; the deeper ones have 2, 4, 8 and 8 times as many."""
    hide: Hide = "attention"
    """What is hidden. To compare with: `random` squares of the same area, `riad`'s passes, `nothing`."""
    saliency: Literal["strokes", "mnist", "residual", "gaussians", "features", "vit"] = "strokes"
    """What draws attention: strokes as in drawn glyphs or in MNIST's digits, a spectrum's residual, what
    differs between scales, what the backbone sees elsewhere than on average, or a transformer."""
    attention: str = ""
    """Other weights for `strokes`, made with tools/train_attention.py."""
    vit: str = ""
    """The transformer, for `vit`: a model id of the hub or a folder. The paper's mosaic has DINO's."""
    levelled: bool = True
    """Whether the local mean is taken off first: to the attention all that is bright is ink."""
    polarity: Literal["both", "bright", "dark"] = "both"
    """Which strokes draw attention."""
    reduction: int = 2
    """By how many times a picture is reduced before what draws attention is looked for; the attention for
    strokes finds those of 2 to 6 pixels."""
    scales: int = 1
    """At how many sizes the reduced picture is looked at, each half the last."""
    rule: Literal["tukey", "sigma1", "sigma2", "sigma3", "top1", "top5", "top10", "top25", "otsu"] = "tukey"
    """Above which attention a pixel is hidden; `tukey`: the mean and 0.674 deviations."""
    dilation: int = 4
    """Pixels by which what is hidden grows, so that no rim is left to copy."""
    fill: Literal["auto", "zero", "mean", "mosaic"] = "auto"
    """What is put in its place."""
    cell: int = 0
    """Side of a mosaic's cells in pixels, 0: chosen on painted defects."""
    off: int = -1
    """Shallow skips that are off in inspection; -1: two, one or none by painted defects; -2: two. In mosaic
    and in RIAD's passes, and where nothing is hidden, both mean none."""
    off_in_training: int = 0
    """Shallow skips that are off in training."""
    remedy: Literal["none", "bn_recal", "mean_skip"] = "none"
    """For skips that are off: take batch norms anew, or put a skip's mean in its place."""
    loss: Parts = "l2+ssim+msgms"
    """What is made small."""
    half: bool = True
    """Whether the likeness of structure in it (SSIM) is taken at half the size."""
    likeness: float = 1.0
    """Weight beside it, if features are compared, of how far they are apart."""
    compare: Literal["features", "msgms"] = "features"
    """How picture and rebuilt one are compared: what a backbone sees of both, or MSGMS as in the paper."""
    smooth: float = 3.0
    """Standard deviation of the map's blur, in pixels of a 256-pixel picture, 0: none."""
    score: Summary = "max"
    """Image score from the map: its maximum or the mean of its highest thousandth."""
    region: Region = "all"
    """Where the image score looks."""
    mask_channel: bool = False
    """Whether the U-Net is told what is hidden."""
    mask_aug: float = 0.0
    """Share of training pictures of which random squares more are hidden, a twentieth of the picture."""
    flips: bool = True
    """Whether training pictures are flipped."""
    light: float = 0.1
    """Share by which their brightness and contrast are swayed: no lamp stays as it is."""
    check_every: int = 50
    """Updates between two looks at good pictures kept aside; 0: none."""
    patience: int = 6
    """Looks without a better one after which training ends."""

    def __post_init__(self) -> None:
        some = ("updates", "members", "batch", "width", "reduction", "scales", "patience")
        leasts = dict.fromkeys(some, 1) | {"off": -2}
        nothing = ("cell", "off_in_training", "dilation", "likeness", "light", "check_every")
        leasts |= dict.fromkeys(nothing, 0)
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate}: give a number above 0.")
        if not 0 <= self.smooth < math.inf:
            raise UsageError(f"smooth is {self.smooth}: give a number of pixels, 0 for none.")
        for name in ("mask_aug", "light"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}: give a share from 0 to 1.")
        for name in ("off", "off_in_training"):
            if getattr(self, name) >= len(LEVELS):
                raise UsageError(f"{name} is {getattr(self, name)}: the U-Net has {len(LEVELS) - 1} skips.")
        if 0 <= self.off < self.off_in_training:
            raise UsageError(
                f"off is {self.off} and off_in_training {self.off_in_training}: a skip that was off in "
                "training has learned nothing, so leave it off."
            )
        if self.mask_channel and self.hide == "riad":
            raise UsageError("RIAD's passes are not told what is hidden: leave mask_channel or riad out.")
        if self.region != "all" and self.hide == "nothing":
            raise UsageError("Nothing is hidden, so no score can come from there: leave region at all.")
        without = f"The saliency {self.saliency} has no"
        for wrong, sentence in (
            (
                self.saliency == "vit" and not self.vit,
                "The saliency vit needs a transformer: name it with --vit.",
            ),
            (self.vit and self.saliency != "vit", f"{without} transformer: leave --vit out."),
            (
                self.attention and self.saliency != "strokes",
                f"{without} weights to choose: leave --attention out.",
            ),
            (self.cell and self.filling != "mosaic", "There is no mosaic with cells: leave --cell out."),
            (self.mask_aug and self.hide != "attention", "Attention hides nothing: leave --mask-aug out."),
            (
                self.off_in_training and self.remedy == "mean_skip",
                "Through a skip that was off in training nothing was learned, so its mean is of no use: "
                "leave --off-in-training or the remedy mean_skip out.",
            ),
        ):
            if wrong:
                raise UsageError(sentence)

    @property
    def filling(self) -> Fill:
        if self.fill != "auto":
            return self.fill
        return "mosaic" if self.variant == "mosaic" else "zero"

    @property
    def offs(self) -> tuple[int, ...]:
        """To choose among."""
        if self.off >= 0:
            return (self.off,)
        masked = self.hide in ("attention", "random") and self.variant == "v1"
        fewest, some = self.off_in_training, SHALLOW if self.off == -1 else SHALLOW[:1]
        return tuple(off for off in some if masked and off >= fewest) or (fewest,)

    @property
    def cells(self) -> tuple[int, ...]:
        if self.filling == "mosaic" and not self.cell and self.hide in ("attention", "random"):
            return SIZES
        return (self.cell or SIZES[-2],)

    @property
    def looks(self) -> bool:
        """Whether a backbone does."""
        return "features" in (self.compare, self.saliency)


def saliency_of(config: Config) -> nn.Module:
    if config.saliency == "vit":
        return ClassToken(config.vit)
    if config.saliency == "residual":
        return SpectralResidual()
    if config.saliency == "gaussians":
        return DifferenceOfGaussians()
    return Attention(
        Path(config.attention) if config.attention else config.saliency,
        polarity=config.polarity,
        scales=[0.5**level for level in range(config.scales)],
        levelled=config.levelled,
    )


def source_of(saliency: nn.Module) -> dict[str, str]:
    """What draws attention, and where its weights are from."""
    if isinstance(saliency, Attention):
        told = {"by": "the attention for strokes"}
        return told | {name: saliency.provenance.get(name, "unknown") for name in ("data", "licence")}
    if isinstance(saliency, ClassToken):
        return {"by": f"the attention of {saliency.backbone.name}", "licence": saliency.backbone.licence}
    if isinstance(saliency, FeatureNorm):
        name, licence = saliency.backbone.name, saliency.backbone.licence
        return {"by": f"what {name} sees elsewhere than on average", "licence": licence}
    return {"by": "a saliency that learned from nothing"}


@register
class EAR(TrainsOnce):
    name: ClassVar[str] = "ear"
    Config: ClassVar[type] = Config
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {},
        "full": {"members": 3},
        "paper": {
            "updates": 8000,
            "batch": 16,
            "width": 64,
            "off": -2,
            "compare": "msgms",
            "smooth": 0.0,
            "reduction": 1,
            "levelled": False,
            "half": False,
            "light": 0.0,
            "patience": 320,
        },
    }
    outputs: tuple[str, ...] = ("pred_score", "anomaly_map", "note_capped")
    notes: ClassVar[dict[str, str]] = {
        "note_capped": "More than half of the picture is conspicuous: the most conspicuous half was hidden."
    }

    @property
    def paints(self) -> bool:
        return len(self.config.offs) * len(self.config.cells) > 1

    def fit(self, train: Samples, run: Run) -> nn.Module:
        self.look(train, run)
        task = self.task(train, run)
        one = _training.probe(self.task(train, run), run)
        self.chosen["expected_seconds"] = round(one.seconds * task.updates)
        by = f" by {self.chosen['saliency']['by']}" if "saliency" in self.chosen else ""
        run.say(
            f"Learning from {len(train)} images, of which {100 * self.share:.0f} % is hidden{by}: "
            f"{task.updates} updates of {self.config.batch}, about {one.seconds * task.updates:.0f} s, and "
            "then good pictures are looked at again."
        )
        pictures = "".join(picture_key(run.picture(sample)) for sample in train)
        scorer = self.learned(task, run, pictures.encode())
        self.network = task.network
        self.chosen |= task.inside_and_outside()
        return scorer

    def look(self, train: Samples, run: Run) -> None:
        """What is hidden of each training picture, one bit a pixel: it depends on the picture alone."""
        config = self.config
        if min(run.size) < SMALLEST:
            raise UsageError(
                f"The working size is {run.size[0]}×{run.size[1]}: give sides of at least {SMALLEST} pixels."
            )
        if not config.looks:
            if run.backbone != "lite0":
                raise UsageError(f"No backbone looks at anything here: leave {run.backbone} out.")
            self.chosen["backbone"] = "none"
        self.ways = [(off, cells) for off in config.offs for cells in config.cells]
        self.likeness: Likeness | None = None
        if config.compare == "features":
            backbone = run.load_backbone().requires_grad_(False)
            self.patches = PatchVectors(backbone)
            self.chosen["weights_licence"] = backbone.licence
            if config.likeness:
                few = train[:: -(-len(train) // MEASURED)]
                self.likeness = Likeness(self.patches, map(torch.from_numpy, run.batches(few)))
        self.masks: dict[str, NDArray[np.uint8]] = {}
        self.hiding: Hiding | Constant = Constant(torch.zeros(run.size))
        if config.hide in ("attention", "random"):
            dilation = -(-config.dilation // config.reduction)
            masking = Masking(config.rule, dilation)
            saliency = self.saliency(train, run)
            self.chosen["saliency"] = source_of(saliency)
            self.hiding = Hiding(saliency, masking, config.reduction)
            masks = run.outputs(run.compiled(self.hiding), train, "attention")
            for sample, mask in zip(train, masks, strict=True):
                self.masks[sample.name] = np.packbits(mask.numpy() > 0)
        shares = [np.unpackbits(mask, count=math.prod(run.size)).mean() for mask in self.masks.values()]
        self.share = float(np.mean(shares)) if shares else (1 / 3 if config.hide == "riad" else 0.0)
        self.chosen |= {
            "hidden": round(self.share, 4),
            "most_hidden": round(max(shares, default=self.share), 4),
        }
        if config.hide == "random":
            fixed = random_squares(run.size, self.share, np.random.default_rng([run.seed]))
            self.hiding = Constant(torch.from_numpy(fixed).float())

    def saliency(self, train: Samples, run: Run) -> nn.Module:
        if self.config.saliency != "features":
            return saliency_of(self.config)
        few = train[:: -(-len(train) // MEASURED)]
        looked_at = (reduced(torch.from_numpy(batch), self.config.reduction) for batch in run.batches(few))
        return FeatureNorm(run.load_backbone(), looked_at)

    def task(self, train: Samples, run: Run) -> Inpainting:
        config, channels = self.config, run.format.channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            widths, extra = tuple(config.width * level for level in LEVELS), int(config.mask_channel)
            unets = [UNet(widths, channels, extra) for _ in range(config.members)]
        filling = Filling(unets, config.filling, told=config.mask_channel)
        filling.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Inpainting(filling, train, config, run, masks=self.masks, likeness=self.likeness)

    def scorer(self, task: Inpainting, run: Run) -> nn.Module:
        passes = [self.passes(task, run, off, cells) for off, cells in self.ways]
        compared = self.comparisons(passes, task.train, run)
        smooth, score, region = Smooth(run.size, self.config.smooth), self.config.score, self.config.region
        scorers = [
            EarScorer(each, compare, smooth, score, region).eval()
            for each, compare in zip(passes, compared, strict=True)
        ]
        if len(scorers) == 1:
            return scorers[0]
        good = task.aside if len(task.aside) >= ENOUGH else task.train
        painted = faint(run.source(good), PAINTED, seed=run.seed, opacity=OPACITY, order=in_turn(good))
        apart = self.apart(scorers, good, painted, run)
        best = int(apart.argmax())
        off, cells = self.ways[best]
        names = [f"{off} off, {cells} px" for off, cells in self.ways]
        told = dict(zip(names, apart.round(3).tolist(), strict=True))
        self.chosen |= {"off": off, "cell": cells, "apart": told}
        self.ways = [(off, cells)]  # what is fitted on halves does as the whole
        return scorers[best]

    def passes(self, task: Inpainting, run: Run, off: int, cells: int) -> Passes:
        config, filling = self.config, deepcopy(task.network)
        remedy = {"none": None, "bn_recal": recalibrate, "mean_skip": mean_skips}[config.remedy]
        for unet in filling.unets:
            unet.switch(first_off(off))
            if remedy is not None:
                remedy(unet, (filling.left(*batch[:3]) for batch in task.kept(task.train, cells)))
        thin = [sliced(unet) for unet in filling.unets]
        if config.hide == "riad":
            return Passes(None, Riad(thin, run.size, seed=run.seed), cells)
        return Passes(self.hiding, Filling(thin, config.filling, told=config.mask_channel), cells)

    @torch.no_grad()
    def comparisons(self, passes: list[Passes], train: Samples, run: Run) -> Sequence[Msgms | Surprise]:
        if self.config.compare == "msgms":
            return [Msgms() for _ in passes]
        surprises = [Surprise(self.patches, run.size, run.format.channels) for _ in passes]
        some = train[:: -(-len(train) // LOOKED_AT)]
        compiled = run.compiled(Each(map(Pairs, passes, surprises)))

        def seen() -> Iterator[Tensor]:
            """Of each picture as it is, and in the light that the U-Net has learned to do with."""
            for number, sample in enumerate(run.progress(some, "looking", len(some))):
                picture, rng = run.pixels([sample])[0], np.random.default_rng([run.seed, number])
                lights = (0.0, self.config.light) if self.config.light else (0.0,)
                yield from compiled(np.stack([relit(picture, light, rng) for light in lights]))

        settle(surprises, seen())
        return surprises

    def apart(self, scorers: list[EarScorer], good: Samples, painted: Faint, run: Run) -> NDArray[np.float64]:
        """By how many of good pictures' deviations defects painted on them score higher, by each scorer."""
        compiled = run.compiled(Each(map(First, scorers)))

        def scores(pictures: Iterator[NDArray[np.float32]]) -> NDArray[np.float64]:
            return np.concatenate([compiled(picture).double().numpy() for picture in pictures])

        repainted = zip(painted.numbers, painted.pictures, strict=True)
        bad = scores(run.repainted(good[number], picture) for number, picture in repainted)
        usual = scores(run.pixels([sample]) for sample in good)
        middle = np.median(usual, 0)
        return (np.median(bad, 0) - middle) / np.median(np.abs(usual - middle), 0).clip(1e-12)

    def weights(self, scorer: nn.Module) -> dict[str, Tensor]:
        """Of the U-Nets as they learned: the scorer's have lost what inspection does not need."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state |= {
            name: value
            for name, value in scorer.state_dict().items()
            if name.startswith("compare.") and not name.startswith("compare.patches.")
        }
        return {name: value.cpu().contiguous() for name, value in state.items()}
