from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.data import Role, Sample, Samples, duplicates, few_shot, hold_out
from blemish.errors import LayoutError, UsageError


def good(count: int, klass: str = "", role: Role = Role.TRAIN) -> list[Sample]:
    return [
        Sample(
            name=f"{klass}/{role}/{number:03d}.png",
            role=role,
            bad=False,
            klass=klass,
            path=Path("unread.png"),
        )
        for number in range(count)
    ]


def samples(*items: Sample) -> Samples:
    return Samples("parts", "folder", items)


def held(held_out: Samples) -> set[str]:
    return {sample.name for sample in held_out.role(Role.CALIBRATION)}


@given(count=st.integers(25, 200), fraction=st.floats(0.01, 0.6), seed=st.integers(0, 9))
def test_hold_out_takes_the_share_or_the_minimum_and_nothing_else_changes(
    count: int, fraction: float, seed: int
) -> None:
    before = samples(*good(count), *good(3, role=Role.TEST))
    after = hold_out(before, fraction=fraction, seed=seed)
    assert len(held(after)) == max(5, round(fraction * count))
    assert after.role(Role.TEST) == before.role(Role.TEST)
    assert [sample.name for sample in after] == [sample.name for sample in before]
    reversed_ = hold_out(before.with_items(reversed(before.items)), fraction=fraction, seed=seed)
    assert held(reversed_) == held(after)


def test_a_new_file_changes_few_roles_and_a_new_seed_many() -> None:
    everything = good(101)
    with_all = held(hold_out(samples(*everything)))
    for left_out in everything[::10]:
        without = held(hold_out(samples(*(item for item in everything if item is not left_out))))
        assert len(with_all ^ without) <= 2
    assert len(with_all ^ held(hold_out(samples(*everything), seed=1))) > 10


def test_each_class_is_held_out_by_itself() -> None:
    small, large, own = (
        good(24, "small"),
        good(50, "large"),
        [*good(50, "own"), *good(2, "own", Role.CALIBRATION)],
    )
    after = hold_out(samples(*small, *large, *own))
    assert [len(after.klass(klass).role(Role.CALIBRATION)) for klass in ("small", "large", "own")] == [
        0,
        10,
        2,
    ]
    assert held(after.klass("large")) == held(hold_out(samples(*large)))


def test_what_cannot_be_held_out() -> None:
    with pytest.raises(LayoutError, match="no good images to train on in class nut of parts: add some"):
        hold_out(samples(*good(30, "screw"), *good(3, "nut", Role.TEST)))
    with pytest.raises(UsageError, match="Holding out 30 of 30 good images leaves none"):
        hold_out(samples(*good(30)), minimum=30)
    with pytest.raises(UsageError, match=r"fraction to hold out is 1\.5: choose one between 0 and 1"):
        hold_out(samples(*good(30)), fraction=1.5)


@given(
    counts=st.dictionaries(st.sampled_from(["", "nut", "bolt"]), st.integers(0, 6), min_size=1),
    kept=st.integers(1, 8),
    order=st.randoms(use_true_random=False),
)
def test_few_shot_keeps_the_first_of_each_class_by_name(
    counts: dict[str, int], kept: int, order: Random
) -> None:
    train = {klass: good(count, klass) for klass, count in counts.items()}
    others = [*good(2, "nut", Role.CALIBRATION), *good(3, "bolt", Role.TEST)]
    everything = [sample for of_class in train.values() for sample in of_class] + others
    order.shuffle(everything)
    found = few_shot(samples(*everything), kept)
    expected = [sample for of_class in train.values() for sample in of_class[:kept]] + others
    assert list(found) == [sample for sample in everything if sample in expected]


def test_few_shot_of_none() -> None:
    with pytest.raises(UsageError, match="0 training images are too few: keep at least 1, and 2 to fit"):
        few_shot(samples(*good(3)), 0)


def test_duplicates_are_the_same_bytes_on_both_sides(tmp_path: Path) -> None:
    contents = {
        ("a", Role.TRAIN): b"same",
        ("b", Role.CALIBRATION): b"same",
        ("c", Role.TRAIN): b"alone",
        ("d", Role.TRAIN): b"twice",
        ("e", Role.TRAIN): b"twice",
        ("x", Role.TEST): b"same",
        ("y", Role.TEST): b"size",
        ("z", Role.TEST): b"",
    }
    items = []
    for (name, role), data in contents.items():
        (tmp_path / name).write_bytes(data)
        items.append(Sample(name=name, role=role, bad=False, path=tmp_path / name))
    assert [(one.name, other.name) for one, other in duplicates(samples(*items))] == [("a", "x"), ("b", "x")]


def test_a_sample_has_one_source() -> None:
    with pytest.raises(UsageError, match="either a path or pixels"):
        Sample(name="a", role=Role.TRAIN, bad=False)
