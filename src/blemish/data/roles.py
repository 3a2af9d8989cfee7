"""Who trains, who calibrates and who tests, and whether the three are kept apart."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b

from blemish import images
from blemish.data.samples import Role, Sample, Samples
from blemish.errors import DataError, LayoutError, UsageError

__all__ = ["check_masks", "draw", "duplicates", "few_shot", "fingerprint", "hold_out", "spare_for_test"]

GOOD_FOR_TEST = 0.3
LEAVE_ONE_OUT_BELOW = 25
"""With fewer good images each is worth more in training, and the caller calibrates by leaving one out."""


def draw(names: Iterable[str], count: int, salt: str) -> set[str]:
    """Some of the names, by a hash of each: a new file changes few other choices."""

    def ticket(name: str) -> bytes:
        return blake2b(f"{salt}:{name}".encode(errors="surrogateescape"), digest_size=8).digest()

    return set(sorted(names, key=ticket)[:count])


def spare_for_test(good: list[Sample], bad: list[Sample]) -> list[Sample]:
    """Some good images test where the data has bad ones, for evaluation needs some not trained on."""
    count = max(1, round(GOOD_FOR_TEST * len(good))) if bad and len(good) >= 4 else 0
    for_test = draw((sample.name for sample in good), count, "test")
    return [replace(sample, role=Role.TEST) if sample.name in for_test else sample for sample in good] + bad


def hold_out(samples: Samples, *, fraction: float = 0.2, minimum: int = 5, seed: int = 0) -> Samples:
    """Let some training images of each class calibrate, where none do and it can spare them."""
    if not 0 < fraction < 1:
        raise UsageError(f"The fraction to hold out is {fraction}: choose one between 0 and 1.")
    held: set[str] = set()
    for klass in samples.classes:
        of_class = samples.klass(klass)
        train = of_class.role(Role.TRAIN)
        if not train:
            named = f"class {klass} of {samples.name}" if klass else samples.name
            raise LayoutError(
                f"There are no good images to train on in {named}: add some, for example as train/good."
            )
        if of_class.role(Role.CALIBRATION) or len(train) < LEAVE_ONE_OUT_BELOW:
            continue
        count = max(minimum, round(fraction * len(train)))
        if count >= len(train):
            raise UsageError(
                f"Holding out {count} of {len(train)} good images leaves none to train on: hold out fewer."
            )
        held |= draw((sample.name for sample in train), count, str(seed))
    return samples.with_items(
        replace(sample, role=Role.CALIBRATION) if sample.name in held else sample for sample in samples
    )


def few_shot(samples: Samples, count: int) -> Samples:
    """Only the first training images of each class, by name; calibration and test images stay."""
    if count < 1:
        raise UsageError(f"{count} training images are too few: keep at least 1, and 2 to fit.")
    kept: set[str] = set()
    for klass in samples.classes:
        names = sorted(sample.name for sample in samples.klass(klass).role(Role.TRAIN))
        kept |= set(names[:count])
    return samples.with_items(s for s in samples if s.role is not Role.TRAIN or s.name in kept)


def duplicates(samples: Samples) -> list[tuple[Sample, Sample]]:
    """Pairs of a training or calibration image and a test image whose files are the same, byte for byte."""
    by_size: dict[int, tuple[list[Sample], list[Sample]]] = {}
    for sample in samples:
        with suppress(OSError):  # whoever reads it is told
            if sample.path is not None:
                sides = by_size.setdefault(sample.path.stat().st_size, ([], []))
                sides[sample.role is Role.TEST].append(sample)
    pairs = []
    for known, test in by_size.values():
        if not (known and test):
            continue
        by_bytes: dict[str, list[Sample]] = {}
        for sample in known:
            by_bytes.setdefault(fingerprint(sample), []).append(sample)
        pairs += [(twin, sample) for sample in test for twin in by_bytes.get(fingerprint(sample), [])]
    return sorted(pairs, key=lambda pair: (pair[1].name, pair[0].name))


def fingerprint(sample: Sample) -> str:
    """Of the picture's file, or else of its pixels: short, for a model file has one for each good image."""
    held = images.read_bytes(sample.path) if sample.path is not None else sample.read().tobytes()
    return blake2b(held, digest_size=8).hexdigest()


def check_masks(samples: Samples) -> None:
    """Refuse a good image whose mask says that it is not."""
    for sample in samples:
        if not sample.bad and sample.mask is not None and images.read_mask(sample.mask).any():
            raise DataError(
                f"{sample.name} counts as good, but its mask {sample.mask.name} marks a defect: "
                "move the image among the bad ones, or empty the mask."
            )
