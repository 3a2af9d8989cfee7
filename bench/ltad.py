"""LTAD, measured: one model of many products with long-tailed counts, beside UniAD and a bank for each.

    python bench/ltad.py table ../shared/data/screw … [--preset fast] [--seeds 0,1,2] [--orders size,random]
    python bench/ltad.py table TEXTURES         # of ten generated textures, written there if absent
    python bench/ltad.py evidence TEXTURES      # that names mean something
    python bench/ltad.py strangers TEXTURES     # what it says of a product that it does not know
    python bench/ltad.py few TEXTURES           # how it judges products of a few images beside larger ones

Each result goes into bench/results/ltad.json, or ltad-few.json and the like, as soon as it is there, and the
same command goes on where an interrupted one was. `python bench/figures.py` makes the tables of docs/ltad.md.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import blemish
from blemish import Verdict, data
from blemish.data import Role, Samples, demo
from blemish.evaluate import evaluate
from blemish.evaluate.evaluation import Record, mean_record
from blemish.evaluate.metrics import image_metrics
from blemish.methods._evidence import naming_accuracy, scores_by_names, shared_state, with_a_name
from records import RESULTS, Store, bare

SPLITS = ("balanced", "exp100", "step100")
SIZE = (256, 256)
SHOTS = 4
COUNTS = (1, 2, 3, 4, 8)
"""Images of products that have few."""


@dataclass(frozen=True)
class Variant:
    name: str
    method: str = "ltad"
    options: dict[str, Any] = field(default_factory=dict)
    apart: bool = False
    """A model for each class."""


MAIN = (
    Variant("UniAD", "uniad"),
    Variant("LTAD"),
    Variant("knn, one bank for all", "knn"),
    Variant("knn, a bank for each class", "knn", apart=True),
    Variant("reb, a bank for each class", "reb", apart=True),
)
SQUARES: dict[str, Any] = {"rec_score": "sq"}
"""What is rebuilt is judged by its squared distance, as in the paper."""
LEARNED: dict[str, Any] = {"semantic": "learned"} | SQUARES
"""And the classifier is one between names, which counts as much."""
CONTROLS = (
    Variant("LTAD, classifier alone", options={"score_of": "sad"}),
    Variant("LTAD, class not told", options={"agnostic": True}),
    Variant("LTAD, reconstruction alone", options={"score_of": "rm"} | SQUARES),
    Variant(
        "LTAD, reconstruction alone, oversampling", options={"score_of": "rm", "oversample": True} | SQUARES
    ),
    Variant("LTAD, classifier learned", options=LEARNED),
    Variant("LTAD, classifier learned, no VAE", options=LEARNED | {"vae": False}),
    Variant("LTAD, classifier learned, oversampling", options=LEARNED | {"oversample": True}),
    Variant("LTAD, classifier learned, names as classes look", options=LEARNED | {"names": "given"}),
    Variant("LTAD, classifier learned, one name for all", options=LEARNED | {"names": "object"}),
    Variant("LTAD, classifier learned, harmonic fusion", options=LEARNED | {"fusion": "harmonic"}),
    Variant("LTAD, classifier learned, alone", options=LEARNED | {"score_of": "sad"}),
    *(
        Variant(f"LTAD, classifier learned, kappa {each}", options=LEARNED | {"kappa": each})
        for each in (0.5, 2.0)
    ),
    *(
        Variant(f"LTAD, classifier learned, rho {each}", options=LEARNED | {"rho": each})
        for each in (0.25, 0.75)
    ),
)


def together(name: str, folders: Sequence[Path]) -> Samples:
    """Folders of one class each as one set of several."""
    items = [
        replace(sample, klass=folder.name, name=f"{folder.name}/{sample.name}")
        for folder in folders
        for sample in data.read(folder)
    ]
    return Samples(name, "mvtec", tuple(items))


def listed(samples: Samples, split: str, *, seed: int, order: str) -> Samples:
    return samples if split == "balanced" else data.long_tail(samples, split, seed=seed, order=order)


def measured(samples: Samples, variant: Variant, *, seed: int, preset: str, cache: Path) -> Record:
    """The mean of all classes, those of head and tail, and each class."""
    given: dict[str, Any] = {"seed": seed, "preset": preset, "options": variant.options, "cache": cache}
    if not variant.apart:
        model = blemish.fit(samples, method=variant.method, **given)
        told = evaluate(model, samples).to_json()
        facts = {name: model.manifest["facts"].get(name) for name in ("tier_in_words", "expected_seconds")}
        return {**told["mean"], **facts, **told.get("groups", {}), "classes": told["records"]}
    records = []
    for klass in samples.classes:
        one = twice(samples.klass(klass))
        records += evaluate(blemish.fit(one, method=variant.method, **given), one).records
    mean = mean_record(records) | {"fit_seconds": sum(record["fit_seconds"] for record in records)}
    groups = {} if samples.tail is None else samples.tail.groups._asdict()
    of = {record["class"]: record for record in records}
    means = {group: mean_record([of[klass] for klass in members]) for group, members in groups.items()}
    return {**mean, **means, "classes": records}


def twice(one: Samples) -> Samples:
    """A single image, counted twice: a bank of it can be measured, though no threshold comes of it."""
    good = one.role(Role.TRAIN)
    more = [replace(sample, name=f"{sample.name} again") for sample in good] if len(good) == 1 else []
    return one.with_items([*one, *more])


def table_of(samples: Samples, given: argparse.Namespace) -> None:
    store = Store(RESULTS / "ltad.json")
    variants = MAIN + CONTROLS * given.controls
    if given.only:
        variants = tuple(each for each in MAIN + CONTROLS if each.name in given.only)
    for seed in map(int, given.seeds.split(",")):
        for split in given.splits.split(","):
            for order in given.orders.split(",") if split != "balanced" else ["size"]:
                tailed = listed(samples, split, seed=seed, order=order)
                for variant in variants:
                    key = {
                        "dataset": samples.name,
                        "split": split,
                        "order": order,
                        "variant": variant.name,
                        "preset": given.preset,
                        "seed": seed,
                    }
                    if not store.has(key):
                        record = measured(tailed, variant, seed=seed, preset=given.preset, cache=given.cache)
                        store.add(key, record)


def textures(folder: Path) -> Samples:
    if not folder.exists():
        demo.write_textures(folder)
    return together("textures", sorted(path for path in folder.iterdir() if path.is_dir()))


def evidence(samples: Samples, given: argparse.Namespace) -> None:
    """Swap test, naming accuracy, few-shot naming and shared state, with the classifier that is learned."""
    store = Store(RESULTS / "ltad-evidence.json")
    for seed in map(int, given.seeds.split(",")):
        key = {"dataset": samples.name, "split": "exp100", "preset": given.preset, "seed": seed}
        if store.has(key):
            continue
        tailed = listed(samples, "exp100", seed=seed, order="size")
        looks = Looks(tailed, seed=seed, given=given)
        assert tailed.tail is not None
        high, low = tailed.tail.groups
        own, swapped, apart = looks.swap()
        left = high[0]
        few = Looks(tailed.with_items(s for s in tailed if s.klass != left), seed=seed, given=given)
        named, generic = few.named(tailed.klass(left))
        store.add(
            key,
            {
                "image_auroc": own,
                "image_auroc_swapped": swapped,
                "naming_accuracy": looks.accuracy(),
                "state_head_tail": apart,
                "few_shot_class": left,
                "few_shot_auroc": named,
                "generic_auroc": generic,
                "classes_low": list(low),
                "fit_seconds": looks.found.seconds,
            },
        )


def strangers(samples: Samples, given: argparse.Namespace) -> None:
    """Each product in turn is left out of the fit, and then shown without saying what it is."""
    store = Store(RESULTS / "ltad-strangers.json")
    for seed in map(int, given.seeds.split(",")):
        for left in samples.classes:
            key = {"dataset": samples.name, "class": left, "preset": given.preset, "seed": seed}
            if store.has(key):
                continue
            rest = samples.with_items(sample for sample in samples if sample.klass != left)
            options = {"score_of": "sad"}  # what scores has no say in whom a picture is taken for
            settings = {"seed": seed, "preset": given.preset, "options": options, "cache": given.cache}
            model = blemish.fit(rest, method="ltad", **settings)
            test = samples.role(Role.TEST)
            strange = [model.inspect(sample.read()).klass is None for sample in test.klass(left)]
            known = [sample for sample in test if sample.klass != left]
            called = [model.inspect(sample.read()).klass for sample in known]
            right = [name == sample.klass for name, sample in zip(called, known, strict=True)]
            store.add(
                key,
                {
                    "flagged": float(np.mean(strange)),
                    "named": float(np.mean(right)),
                    "known_flagged": float(np.mean([name is None for name in called])),
                    "fit_seconds": model.manifest["fit_seconds"],
                },
            )


def few(samples: Samples, given: argparse.Namespace) -> None:
    """Every other product has so many images, drawn anew for each count; and then those between."""
    store = Store(RESULTS / "ltad-few.json")
    for seed, count, half in product(map(int, given.seeds.split(",")), COUNTS, (0, 1)):
        key = {"dataset": samples.name, "count": count, "half": half, "preset": given.preset, "seed": seed}
        if store.has(key):
            continue
        rng, small = np.random.default_rng([seed, count, half]), samples.classes[half::2]
        left_out = set()
        for klass in small:
            names = [sample.name for sample in samples.role(Role.TRAIN).klass(klass)]
            left_out |= {*rng.permutation(names)[count:].tolist()}
        cut = samples.with_items(sample for sample in samples if sample.name not in left_out)
        options = {"score_of": "sad"}  # by default it decides
        settings = {"seed": seed, "preset": given.preset, "options": options, "cache": given.cache}
        model = blemish.fit(cut, method="ltad", **settings)
        store.add(key, {"classes": [judged(model, cut.klass(klass)) for klass in small]})


def judged(model: blemish.Inspector, samples: Samples) -> Record:
    """By thresholds of its own, and by those of all products."""
    test, klass = samples.role(Role.TEST), samples[0].klass
    found = [model.inspect(sample.read(), klass=klass) for sample in test]
    bad = np.array([sample.bad for sample in test])
    verdicts = {
        "own": [result.verdict for result in found],
        "by all": [model.calibration.verdict(result.score) for result in found],
    }
    shares = {
        f"{kind} {verdict}, {by}": float(np.mean(np.array(given)[of] == verdict))
        for by, given in verdicts.items()
        for verdict in (Verdict.REJECT, Verdict.REVIEW)
        for kind, of in (("good", ~bad), ("bad", bad))
    }
    auroc = image_metrics(np.array([result.score for result in found]), bad).auroc
    return {"class": klass, "how": model.calibrations.for_class(klass).how, "image_auroc": auroc, **shares}


class Looks:
    """A scorer as it was learned, and test pictures for it."""

    def __init__(self, samples: Samples, *, seed: int, given: argparse.Namespace) -> None:
        held = data.hold_out(samples, seed=seed)
        found = bare(held, "ltad", given.preset, LEARNED, size=SIZE, seed=seed, cache=given.cache)
        self.samples, self.found, self.names = samples, found, found.train.classes
        self.scorer: Any = found.scorer

    def pictures(self, samples: Samples) -> Iterator[torch.Tensor]:
        return (torch.from_numpy(batch) for batch in self.found.run.batches(samples))

    def aurocs(self, samples: Samples, scorer: Any = None) -> list[float]:
        """By each name."""
        test = samples.role(Role.TEST)
        bad = np.array([sample.bad for sample in test])
        scores = scores_by_names(scorer or self.scorer, self.pictures(test)).double().numpy()
        found = [image_metrics(column, bad).auroc for column in scores.T]
        known = [auroc for auroc in found if auroc is not None]
        assert len(known) == len(found)  # a place is a name
        return known

    def swap(self) -> tuple[float, float, float]:
        """AUROC by own names and, on average, by others'; and how alike "abnormal" is to head and tail."""
        table = np.array([self.aurocs(self.samples.klass(klass)) for klass in self.names])
        off = ~np.eye(len(table), dtype=bool)
        assert self.samples.tail is not None
        rows, columns = ([self.names.index(klass) for klass in group] for group in self.samples.tail.groups)
        alike = shared_state(self.scorer)[rows][:, columns]
        return float(table.diagonal().mean()), float(table[off].mean()), float(alike.mean())

    def accuracy(self) -> float:
        test = self.samples.role(Role.TEST)
        good = test.with_items(sample for sample in test if not sample.bad)
        return naming_accuracy(self.scorer, [self.pictures(good.klass(klass)) for klass in self.names])

    def named(self, strange: Samples) -> tuple[float, float]:
        """AUROC on a class that was left out, by a name learned from a few pictures and by the mean name."""
        few = strange.role(Role.TRAIN)[:SHOTS]
        wider = [with_a_name(self.scorer, pictures) for pictures in (self.pictures(few), None)]
        named, generic = (self.aurocs(strange, scorer)[-1] for scorer in wider)
        return named, generic


WHAT = {"table": table_of, "evidence": evidence, "strangers": strangers, "few": few}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("folders", nargs="+", type=Path, help="of one product each, or one of the textures")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--splits", default=",".join(SPLITS))
    parser.add_argument("--orders", default="size", help="of classes, from head to tail: size, random")
    parser.add_argument("--controls", action="store_true", help="what carries the gain, too")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in MAIN + CONTROLS])
    parser.add_argument("--cache", type=Path, help="a folder for features, which all variants share")
    given = parser.parse_args()
    several = len(given.folders) > 1
    samples = together("folders", given.folders) if several else textures(given.folders[0])
    WHAT[given.what](samples, given)


if __name__ == "__main__":
    main()
