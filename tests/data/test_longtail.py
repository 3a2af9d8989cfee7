import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.data import Role, Sample, Samples, groups, groups_by_count, list_text, long_tail, read, root_of
from blemish.data.longtail import class_order, tail_counts
from blemish.errors import DataError, LayoutError, UsageError
from blemish.images import write_png

# What the papers' data sets hold, and what the recipe of long-tailed recognition makes of it.
AVAILABLE = {
    "mvtec": {
        "hazelnut": 391, "screw": 320, "carpet": 280, "pill": 267, "grid": 264, "wood": 247, "leather": 245,
        "zipper": 240, "tile": 230, "cable": 224, "metal_nut": 220, "capsule": 219, "transistor": 213,
        "bottle": 209, "toothbrush": 60,
    },
    "visa": {
        "candle": 900, "capsules": 542, "cashew": 450, "chewinggum": 453, "fryum": 450, "macaroni1": 900,
        "macaroni2": 900, "pcb1": 904, "pcb2": 901, "pcb3": 905, "pcb4": 904, "pipe_fryum": 450,
    },
    "dagm": {f"Class{number}": 500 if number < 7 else 1000 for number in range(1, 11)},
}  # fmt: skip
EXPECTED = {
    ("mvtec", "exp100"): [391, 281, 203, 146, 105, 75, 54, 39, 28, 20, 15, 10, 8, 5, 4],
    ("mvtec", "exp200"): [391, 268, 183, 126, 86, 59, 40, 28, 19, 13, 9, 6, 4, 3, 2],
    ("mvtec", "step100"): [391, 320, 280, 267, 264, 247, 245, 240, *[4] * 7],
    ("mvtec", "step200"): [391, 320, 280, 267, 264, 247, 245, 240, *[2] * 7],
    ("visa", "exp100"): [905, 595, 392, 258, 170, 112, 73, 48, 32, 21, 14, 9],
    ("visa", "exp200"): [905, 559, 345, 213, 132, 81, 50, 31, 19, 12, 7, 5],
    ("visa", "step100"): [905, 904, 904, 901, 900, 900, *[9] * 6],
    ("visa", "step500"): [905, 904, 904, 901, 900, 900, *[2] * 6],
    ("visa", "exp500"): [905, 514, 292, 166, 94, 54, 31, 17, 10, 6, 3, 2],
    ("visa", "step200"): [905, 904, 904, 901, 900, 900, *[5] * 6],
    ("dagm", "exp100"): [1000, 599, 359, 215, 129, 77, 46, 28, 17, 10],
    ("dagm", "step200"): [1000, 1000, 1000, 1000, 500, *[5] * 5],
    ("dagm", "exp200"): [1000, 555, 308, 171, 95, 53, 29, 16, 9, 5],
    ("dagm", "step100"): [1000, 1000, 1000, 1000, 500, *[10] * 5],
    ("mvtec", "exp1"): [391, 320, 280, 267, 264, 247, 245, 240, 230, 224, 220, 219, 213, 209, 60],
}
PARETO = {
    "grid": 264, "carpet": 160, "transistor": 100, "tile": 65, "pill": 43, "leather": 29, "metal_nut": 20,
    "toothbrush": 14, "screw": 10, "zipper": 7, "bottle": 5, "cable": 5, "wood": 5, "hazelnut": 5,
    "capsule": 5,
}  # fmt: skip
"""Of TailedCore's published list."""


@pytest.mark.parametrize(("dataset", "kind"), EXPECTED)
def test_counts_are_those_of_the_recipe(dataset: str, kind: str) -> None:
    available = AVAILABLE[dataset]
    order = class_order(available)
    counts = tail_counts(available, kind, order)
    assert (tuple(counts), list(counts.values())) == (order, EXPECTED[dataset, kind])


def test_pareto_is_that_of_the_published_list() -> None:
    assert tail_counts(AVAILABLE["mvtec"], "pareto", tuple(PARETO)) == PARETO


def pool(counts: dict[str, int], *, tests: int = 1) -> Samples:
    samples = [
        Sample(name=f"{klass}/{part}/{index}.png", role=role, bad=False, klass=klass, path=Path("x"))
        for klass, count in counts.items()
        for part, role, number in (("train", Role.TRAIN, count), ("test", Role.TEST, tests))
        for index in range(number)
    ]
    return Samples("pool", "mvtec", tuple(samples))


sizes = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=2)


def test_an_order_may_name_classes_with_commas() -> None:
    counts = {"nut, M4": 3, "bolt": 9}
    assert class_order(counts, '"nut, M4",bolt') == ("nut, M4", "bolt")
    with pytest.raises(UsageError, match="name each of them once, one with a comma in double quotes"):
        class_order(counts, "nut, M4,bolt")


@given(
    sizes,
    st.integers(1, 300),
    st.sampled_from(["exp", "step"]),
    st.sampled_from(["size", "random"]),
    st.integers(0, 9),
)
def test_a_split_keeps_what_it_says(
    counts: dict[str, int], factor: int, shape: str, order: str, seed: int
) -> None:
    samples = pool(counts)
    split = long_tail(samples, f"{shape}{factor}", seed=seed, order=order)
    tail = split.tail
    assert tail is not None
    kept = {klass: len(split.klass(klass).role(Role.TRAIN)) for klass in split.classes}
    assert kept == dict(tail.counts)
    assert all(1 <= kept[klass] <= counts[klass] for klass in counts)
    assert {s.name for s in split.role(Role.TEST)} == {s.name for s in samples.role(Role.TEST)}
    if order == "size":
        assert list(tail.counts.values()) == sorted(tail.counts.values(), reverse=True)
    assert sorted(tail.order) == sorted(counts)
    assert long_tail(samples, f"{shape}{factor}", seed=seed, order=order) == split
    longer = long_tail(samples, f"{shape}{2 * factor}", seed=seed, order=order)
    assert {s.name for s in longer} <= {s.name for s in split}


def test_seeds_and_orders_draw_others() -> None:
    samples = pool(dict.fromkeys("abcdef", 40))
    names = {seed: {s.name for s in long_tail(samples, "exp10", seed=seed)} for seed in range(3)}
    assert len({frozenset(each) for each in names.values()}) == 3
    orders = {class_order(dict.fromkeys("abcdef", 40), "random", seed=seed) for seed in range(6)}
    assert len(orders) > 3
    given_order = long_tail(samples, "step4", order="f,e,d,c,b,a").tail
    assert given_order is not None
    assert dict(given_order.counts) == {"f": 40, "e": 40, "d": 40, "c": 10, "b": 10, "a": 10}
    assert given_order.groups == (("f", "e", "d"), ("c", "b", "a"))


@pytest.mark.parametrize(
    ("counts", "high"),
    [
        ({"a": 9, "b": 5, "c": 3}, "ab"),
        ({"a": 9, "b": 9, "c": 9, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1}, "abc"),
        ({"a": 9, "b": 9, "c": 9, "d": 9, "e": 9, "f": 1}, "abcde"),
        ({"a": 7, "b": 7}, ""),
        ({"a": 7}, ""),
        (PARETO, [*PARETO][:8]),
    ],
)
def test_classes_of_one_size_are_not_parted(counts: dict[str, int], high: str | list[str]) -> None:
    found = groups(counts)
    assert found.high == tuple(high)
    assert sorted(found.high + found.low) == (sorted(counts) if high else [])


def test_the_other_cut() -> None:
    high, low = groups_by_count(PARETO)
    assert (len(high), len(low)) == (7, 8)
    assert high == tuple(PARETO)[:7]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "parts"
    for klass, count in {"nut": 12, "bolt": 9}.items():
        folders = {f"{klass}/train/good": count, f"{klass}/test/good": 2, f"{klass}/test/1": 1}
        for folder, number in {**folders, f"{klass}/test/cut": 1, f"{klass}/ground_truth/cut": 1}.items():
            (root / folder).mkdir(parents=True)
            for index in range(number):
                write_png(root / folder / f"{index}.png", np.full((4, 4, 3), index, np.uint8))
    return root


def test_a_list_is_read_as_what_was_written(parts: Path, tmp_path: Path) -> None:
    split = long_tail(read(parts), "exp4", seed=2)
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "exp4.json"
    path.write_text(list_text(split, root_of(parts), path.parent))
    again = read(path)
    assert (again.name, again.layout) == ("exp4", "list")
    assert root_of(path).samefile(parts)
    # a folder called 1 is a kind of defect, but not a word that a list may have for one
    assert [(s.name, s.role, s.bad, s.kind, s.klass) for s in again] == [
        (s.name, s.role, s.bad, "bad" if s.kind == "1" else s.kind, s.klass) for s in split
    ]
    for one, other in zip(split, again, strict=True):
        assert one.path is not None
        assert other.path is not None
        assert one.path.samefile(other.path)
        assert (one.mask is None) == (other.mask is None) or one.kind == "1"
    assert split.tail is not None
    assert again.tail is not None
    assert {**again.tail.counts} == {"nut": 12, "bolt": 3}
    assert (again.tail.kind, again.tail.seed, again.tail.order) == ("exp4", 2, ("nut", "bolt"))
    assert again.role(Role.TRAIN).tail == again.tail
    assert list_text(again, parts, path.parent) == path.read_text()

    moved = tmp_path / "moved.json"
    moved.write_bytes(path.read_bytes())
    with pytest.raises(
        DataError, match=r"names \d+ images that do not exist.*set its root, now .*data/parts, to"
    ):
        read(moved)
    changed = json.loads(path.read_text())
    for key, value in (("images", changed["images"][1:]), ("order", ["nut", "screw"])):
        path.write_text(json.dumps({**changed, key: value}))
        with pytest.raises(
            LayoutError, match=r"exp4.json .*make it again with `blemish split`, or delete its"
        ):
            read(path)
    del changed["sha256"]
    path.write_text(json.dumps({**changed, "images": changed["images"][1:]}))
    assert (len(read(path)), read(path).tail) == (len(split) - 1, None)


def test_what_cannot_be_split(tmp_path: Path) -> None:
    for kind in ("exp", "exp0", "exp-3", "step1.5", "linear100", "Pareto"):
        with pytest.raises(
            UsageError, match=f"There is no long tail '{kind}': write exp or step and the factor"
        ):
            long_tail(pool({"a": 3, "b": 3}), kind)
    with pytest.raises(UsageError, match=r"pool has one class, and a long tail needs several"):
        long_tail(pool({"a": 3}), "exp10")
    with pytest.raises(DataError, match=r"The class 'b' of pool has no good images to train on"):
        long_tail(pool({"a": 3, "b": 0}), "exp10")
    with pytest.raises(
        UsageError, match=r"The order a,b,b is none of the classes a,b,c: name each of them once"
    ):
        long_tail(pool({"a": 3, "b": 2, "c": 1}), "exp10", order="a,b,b")
    with pytest.raises(UsageError, match=r"array-0000 is an array, and a list names files"):
        list_text(read([np.zeros((4, 4, 3), np.uint8)]), tmp_path, tmp_path)
