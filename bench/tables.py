"""Tables of the results of single methods, for bench/figures.py."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from statistics import fmean, median, stdev
from typing import Any

RATES = ("image_auroc", "pixel_auroc", "aupro30")
RIVAL_RATES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro30")
IN_SHORT = (
    "LTAD",
    "UniAD",
    "knn, a bank for each class",
    "reb, a bank for each class",
    "knn, one bank for all",
)
ABLATED = (
    "UniAD",
    "LTAD, reconstruction alone",
    "LTAD, reconstruction alone, oversampling",
    "LTAD",
    "LTAD, class not told",
    "LTAD, classifier alone",
    "LTAD, classifier learned",
    "LTAD, classifier learned, no VAE",
    "LTAD, classifier learned, oversampling",
    "LTAD, classifier learned, names as classes look",
    "LTAD, classifier learned, one name for all",
    "LTAD, classifier learned, harmonic fusion",
    "LTAD, classifier learned, alone",
)
WEIGHED = {
    "LTAD, classifier learned": "as they are: kappa 1, rho 0.5",
    "LTAD, classifier learned, kappa 0.5": "kappa 0.5",
    "LTAD, classifier learned, kappa 2.0": "kappa 2",
    "LTAD, classifier learned, rho 0.25": "rho 0.25",
    "LTAD, classifier learned, rho 0.75": "rho 0.75",
}
NONE = "–"

Table = Iterable[Sequence[str]]


def choices(result: Mapping[str, Any], _: Mapping[str, Any], *, rate: str = "image_auroc") -> Table:
    """Means over draws; over data sets only of variants that were tried on all."""
    names = sorted({record["dataset"] for record in result["records"]})
    yield ["", "mean", *(f"`{name}`" for name in names)]
    for variant in dict.fromkeys(record["variant"] for record in result["records"]):
        own = [record for record in result["records"] if record["variant"] == variant]
        found = [[record[rate] for record in own if record["dataset"] == name] for name in names]
        means = [fmean(values) if values else None for values in found]
        known = [mean for mean in means if mean is not None]
        overall = fmean(known) if len(known) == len(means) else None
        yield [variant, *(NONE if mean is None else f"{100 * mean:.1f}" for mean in (overall, *means))]


def paired(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Means over seeds; the error is that of one seed, for all have the same test pictures."""
    yield ["data set", "good / bad test pictures", "LDKNN less kNN", "standard error"]
    for name in dict.fromkeys(record["dataset"] for record in result["records"]):
        own = [record for record in result["records"] if record["dataset"] == name]
        gain, error = (100 * fmean(record[kind] for record in own) for kind in ("gain", "error"))
        yield [f"`{name}`", f"{own[0]['good']} / {own[0]['bad']}", f"{gain:+.1f}", f"{error:.1f}"]


CELLS = [
    ("lite0", "ImageNet", "kNN"),
    ("lite0", "ImageNet", "LDKNN"),
    ("lite0", "adapted", "kNN"),
    ("lite0", "adapted", "LDKNN"),
    ("resnet18", "ImageNet", "kNN"),
    ("resnet18", "ImageNet", "LDKNN"),
]


def reb_cells(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    yield ["data set", *(" ".join(cell) for cell in CELLS)]
    for name in dict.fromkeys(record["dataset"] for record in result["records"]):
        found = [
            [
                r
                for r in result["records"]
                if (r["dataset"], r["backbone"], r["features"], r["scorer"]) == (name, *cell)
            ]
            for cell in CELLS
        ]
        yield [f"`{name}`", *map(seeds, found)]


def ablations(result: Mapping[str, Any], _: Mapping[str, Any], *, rate: str = "image_auroc") -> Table:
    """Means over seeds."""
    names = list(dict.fromkeys(record["dataset"] for record in result["records"]))
    yield ["study", "variant", *(f"`{name}`" for name in names)]
    for study, variant in dict.fromkeys((r["study"], r["variant"]) for r in result["records"]):
        own = [r for r in result["records"] if (r["study"], r["variant"]) == (study, variant)]
        found = [[100 * r[rate] for r in own if r["dataset"] == name] for name in names]
        yield [study, variant, *(f"{fmean(values):.1f}" if values else NONE for values in found)]


def long_tailed(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Of each set and split: every variant on the classes with many images, on those with few, and on all."""
    yield ["set", "split", "order", "preset", "", "runs", "High", "Low", "Avg", "fit s"]
    for key, found in sorted(by_list(result, "preset", "variant").items()):
        groups = [[record[group] for record in found if group in record] for group in ("high", "low")]
        times = [time for record in found if (time := record["fit_seconds"]) is not None]
        took = f"{median(times):.0f} s" if times else NONE
        yield [*key, str(len(found)), *map(spread, [*groups, found]), took]


def long_tailed_in_short(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Image AUROC of `fast`: of the classes with few images, and of all."""
    yield ["set", "split", "order", *IN_SHORT]
    for key, found in sorted(by_list(result).items()):
        fast = [record for record in found if record["preset"] == "fast"]
        yield [*key, *(low_and_all(record for record in fast if record["variant"] == v) for v in IN_SHORT)]


def ltad_ablations(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """The same where the parts were measured, by variants: means over the seeds that all of these have."""
    return by_variant(result, {variant: variant for variant in ABLATED}, "LTAD, classifier learned")


def ltad_weights(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    return by_variant(result, WEIGHED, "LTAD, classifier learned, kappa 0.5")


def by_variant(result: Mapping[str, Any], shown: Mapping[str, str], needed: str) -> Table:
    """Of the lists that have results of the one that is needed."""
    parts: dict[str, dict[str, dict[int, Any]]] = {}
    for record in result["records"]:
        if record["variant"] in shown:
            name = " ".join(record[of] for of in ("dataset", "split", "preset"))
            if record["order"] == "random":
                name += ", second order"
            part = parts.setdefault(name, {})
            part.setdefault(record["variant"], {})[record["seed"]] = record
    parts = {name: part for name, part in sorted(parts.items()) if needed in part}
    seeds = {name: set.intersection(*map(set, part.values())) for name, part in parts.items()}
    yield ["", *(f"{name}, {len(own)} run{'s' * (len(own) > 1)}" for name, own in seeds.items())]
    for variant, called in shown.items():
        found = ((part.get(variant, {}), seeds[name]) for name, part in parts.items())
        yield [called, *(low_and_all(runs[seed] for seed in sorted(own) if runs) for runs, own in found)]


def low_and_all(records: Iterable[Any]) -> str:
    """Image AUROC of classes with few images, where there are such, and of all."""
    found = [*records]
    groups = [[record["low"] for record in found if "low" in record], found]
    rates = [100 * fmean(record["image_auroc"] for record in group) for group in groups if group]
    return " / ".join(f"{rate:.1f}" for rate in rates) or NONE


def by_list(result: Mapping[str, Any], *more: str) -> dict[tuple[str, ...], list[Any]]:
    rows: dict[tuple[str, ...], list[Any]] = {}
    for record in result["records"]:
        rows.setdefault(tuple(record[name] for name in ("dataset", "split", "order", *more)), []).append(
            record
        )
    return rows


def evidence(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """That names mean something: rates in percent, and a cosine."""
    rates = ("image_auroc", "image_auroc_swapped", "naming_accuracy", "few_shot_auroc", "generic_auroc")
    yield [
        "set",
        "split",
        "seed",
        "image AUROC by own name",
        "by another's",
        "good pictures named right",
        "image AUROC of a product left out, by a name from four pictures",
        "by the mean name",
        "“abnormal”, head to tail",
    ]
    for record in result["records"]:
        of = [str(record[name]) for name in ("dataset", "split", "seed")]
        yield [*of, *(f"{100 * record[rate]:.1f}" for rate in rates), f"{record['state_head_tail']:.2f}"]


def strangers(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Means over the products that were left out, each in its turn, and the least."""
    yield ["set", "left out", "flagged", "of known ones, called by their own name", "flagged"]
    rows: dict[str, list[Any]] = {}
    for record in result["records"]:
        rows.setdefault(record["dataset"], []).append(record)
    for name, found in rows.items():
        rates = [[100 * record[rate] for record in found] for rate in ("flagged", "named", "known_flagged")]
        told = [f"{fmean(values):.1f}" for values in rates]
        told[0] += f", at worst {min(rates[0]):.1f}"
        yield [name, f"{len(found)} products", *told]


def few(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Means over products; of one half these are few in one fit, and the others in another."""
    kinds = ("good reject", "good review", "bad reject", "bad review")
    columns = ("good rejected", "for review", "defective rejected", "for review")
    yield ["set", "images", *columns, *(f"by the threshold of all: {columns[at]}" for at in (0, 2))]
    rows: dict[tuple[str, int], list[Any]] = {}
    for record in result["records"]:
        rows.setdefault((record["dataset"], record["count"]), []).extend(record["classes"])
    for (name, count), found in rows.items():
        rates = (*(f"{kind}, own" for kind in kinds), *(f"{kinds[at]}, by all" for at in (0, 2)))
        told = [f"{100 * fmean(record[rate] for record in found):.1f}" for rate in rates]
        yield [name, str(count), *told]


def rivals(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Means over seeds, with the spread of the first rate; then of the data sets that all rivals have."""
    rates = ("image AUROC", "image AP", "pixel AUROC", "pixel AP", "AUPRO")
    yield ["data set", "preset", "", "seeds", *rates, "fit s"]
    records = result["records"]
    kinds = list(dict.fromkeys((r["preset"], r["variant"]) for r in records))
    sets = list(dict.fromkeys(r["dataset"] for r in records))
    means: dict[tuple[str, str], list[float]] = {}
    for name, (preset, variant) in product(sets, kinds):
        own = [r for r in records if (r["dataset"], r["preset"], r["variant"]) == (name, preset, variant)]
        if not own:
            continue
        each = [[100 * record[rate] for record in own] for rate in RIVAL_RATES]
        means.setdefault((preset, variant), []).append(fmean(each[0]))
        told = [f"{fmean(values):.1f}" for values in each]
        if len(own) > 1:
            told[0] += f" ± {stdev(each[0]):.1f}"
        seconds = median(record["fit_seconds"] for record in own)
        yield [f"`{name}`", preset, variant, str(len(own)), *told, f"{seconds:.0f}"]
    for (preset, variant), found in means.items():
        if len(found) == len(sets) > 1:
            yield ["mean", preset, variant, "", f"{fmean(found):.1f}", *[NONE] * len(rates)]


def throughput(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    yield ["preset", "", "ms a picture", "pictures a second", "time by EAR's", "threads"]
    for record in result["records"]:
        ms, ratio = f"{record['ms']:.1f}", f"{record['by_ear']:.1f}"
        a_second = f"{1000 / record['ms']:.1f}"
        yield [record["preset"], record["variant"], ms, a_second, ratio, str(record["threads"])]


def spread(records: Sequence[Mapping[str, Any]]) -> str:
    """Means over runs, and the spread of the first rate."""
    if not records:
        return NONE
    rates = [[100 * record[rate] for record in records] for rate in RATES]
    told = [f"{fmean(values):.1f}" for values in rates]
    if len(records) > 1:
        told[0] += f" ± {stdev(rates[0]):.1f}"
    return " / ".join(told)


def strangeness(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Means over products: pixel AP, and image AUROC with each score."""
    records = result["records"]
    painters = list(dict.fromkeys(record["painted"] for record in records))
    scores = list(records[0]["by_score"])
    yield ["counts", *(f"{painter}: {kind}" for painter in painters for kind in ("pixel AP", *scores))]
    for weight in dict.fromkeys(record["weight"] for record in records):
        row = [f"{weight:g}"]
        for painter in painters:
            own = [r for r in records if (r["weight"], r["painted"]) == (weight, painter)]
            rates = [fmean(record["pixel_ap"] for record in own)]
            rates += [fmean(record["by_score"][kind] for record in own) for kind in scores]
            row += [f"{100 * rate:.1f}" for rate in rates]
        yield row


def light(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    yield ["data set", "", "as they are", "all relit", "good ones relit", "good ones 7 % darker"]
    for record in result["records"]:
        rates = (record[rate] for rate in ("image_auroc", "all_relit", "good_relit", "good_darker"))
        yield [f"`{record['dataset']}`", record["variant"], *(f"{100 * rate:.1f}" for rate in rates)]


def products(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Of each sort of painted defects the mean of all products, and of those with few images."""
    sorts = list(result["records"][0]["by"])
    yield ["", *(f"{sort}: {which}" for sort in sorts for which in ("all", "rare")), "fit s"]
    for record in result["records"]:
        means = [
            fmean(rate for name, rate in record["by"][sort].items() if name in members)
            for sort in sorts
            for members in (record["by"][sort], record["rare"])
        ]
        yield [record["variant"], *(f"{100 * mean:.1f}" for mean in means), f"{record['fit_seconds']:.0f}"]


def scores(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Means of sorts of painted defects, and the image AUROC of each."""
    sorts, rates = list(result["records"][0]["by"]), ("image_auroc", "pixel_auroc", "pixel_ap", "aupro30")
    yield ["set", "", "image AUROC", *sorts, "pixel AUROC", "AP", "AUPRO"]
    for record in sorted(result["records"], key=lambda record: record["dataset"]):
        means, by = [record[rate] for rate in rates], [record["by"][sort]["image_auroc"] for sort in sorts]
        values = [means[0], *by, *means[1:]]
        yield [record["dataset"], f"`{record['variant']}`", *(f"{100 * value:.1f}" for value in values)]


def seeds(records: Sequence[Mapping[str, Any]]) -> str:
    """Rates, and the medians of time."""
    if not records:
        return NONE
    fit, shown = (median(record[name] for record in records) for name in ("fit_seconds", "ms_p50"))
    return f"{spread(records)}, {fit:.0f} s, {shown:.1f} ms"
