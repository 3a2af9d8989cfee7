import csv
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.data import Role, Samples, read
from blemish.errors import DataError, LayoutError, MaskError

COLUMNS = ("image", "label", "split", "mask", "class")
stems = st.text(st.sampled_from("aäß部 ,;'\"\u2028-.0"), min_size=1, max_size=12).map(lambda s: f"i{s}i")
good_rows = st.tuples(
    st.sampled_from(["good", "OK", "normal", "0", ""]),
    st.sampled_from(["", "train", "val", "Test"]),
    st.just(False),
)
bad_rows = st.tuples(
    st.sampled_from(["bad", "ng", "anomaly", "1", "Deep scratch"]),
    st.sampled_from(["", "test"]),
    st.booleans(),
)


def of_classes(*classes: str) -> st.SearchStrategy[dict[str, tuple[tuple[str, str, bool], str]]]:
    rows = st.tuples(good_rows | bad_rows, st.sampled_from(classes))
    return st.dictionaries(stems, rows, min_size=1, max_size=8)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    match path.suffix:
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
        case ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        case ".json":
            path.write_text(json.dumps(rows), "utf-8")
    return path


@given(of_classes("") | of_classes("nut", "Mutter ü"))
def test_all_forms_of_a_list_say_the_same(drawn: dict[str, tuple[tuple[str, str, bool], str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "sub").mkdir()
        (root / "mask.png").touch()
        rows, expected = [], {}
        for stem, ((label, split, masked), klass) in drawn.items():
            name = f"sub/{stem}.png"
            (root / name).touch()
            values = (name, label, split, "mask.png" if masked else "", klass)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            bad = label in ("bad", "ng", "anomaly", "1", "Deep scratch")
            role = {"train": "train", "val": "calibration", "Test": "test", "test": "test"}.get(split)
            kind = ("Deep scratch" if label == "Deep scratch" else "bad") if bad else "good"
            expected[name] = (role or ("test" if bad else "train"), bad, kind, klass, masked)
        for suffix in (".csv", ".jsonl", ".json"):
            samples = read(write(root / f"parts{suffix}", rows))
            assert (samples.name, samples.layout) == ("parts", "list")
            assert [sample.name for sample in samples] == [row["image"] for row in rows]
            assert {
                s.name: (s.role.value, s.bad, s.kind, s.klass, s.mask == root / "mask.png") for s in samples
            } == expected


def read_csv(folder: Path, text: str) -> Samples:
    (folder / "a.png").touch()
    path = folder / "parts.csv"
    path.write_bytes(text.encode())
    return read(path)


def test_only_the_image_is_required(tmp_path: Path) -> None:
    (sample,) = read_csv(tmp_path, "\ufeffImage\r\na.png\r\n\r\n")
    assert (sample.name, sample.role, sample.kind, sample.path) == (
        "a.png",
        Role.TRAIN,
        "good",
        tmp_path / "a.png",
    )


def test_semicolons_and_absolute_paths(tmp_path: Path) -> None:
    (sample,) = read_csv(tmp_path, f"image;label;split\n{tmp_path / 'a.png'};1;\n")
    assert (sample.name, sample.role) == ((tmp_path / "a.png").as_posix(), Role.TEST)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,lable\na.png,bad\n", r"line 2 has a column 'lable': rename it to one of image, label"),
        ("label\nbad\n", r"line 2 names no image: fill in"),
        ("image,label\na.png,2\n", r"line 2 has the label '2': write good, bad or a kind"),
        ("image,label\na.png,True\n", r"line 2 has the label 'True'"),
        ("image,split\na.png,trian\n", r"line 2 has the split 'trian': write one of train, calibration, val"),
        ("image,label\na,b.png,bad\n", r"line 2 does not fit the columns: quote a name"),
        ("image\n", r"lists no images: add a row"),
        ("", r"lists no images"),
        ('image\n"a.png\n', r"cannot be read as CSV"),
        (
            "image,class\na.png,nut\n./a.png,\n",
            r"no class for 1 of 2 images, such as a\.png: name the class of each",
        ),
    ],
)
def test_a_row_that_cannot_be_understood(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(LayoutError, match=sentence):
        read_csv(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("l.json", b'{"image": "a.png"}', "cannot be read as JSON .it holds no array"),
        ("l.json", b'["a.png"]', "entry 1 does not fit the columns"),
        ("l.jsonl", b'{"image": "a.png"}\n{"image"\n', "cannot be read as JSONL"),
        ("l.csv", "image\nä.png\n".encode("latin-1"), "save it again in UTF-8"),
        ("l.json", b"", "lists no images: add a row for each"),
    ],
)
def test_a_list_that_cannot_be_parsed(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LayoutError, match=sentence):
        read(tmp_path / name)


def test_missing_files_are_counted_and_three_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"names 4 images that do not exist \(0.png, 1.png, 2.png, …\): write paths"
    ):
        read_csv(tmp_path, "image\na.png\n" + "".join(f"{number}.png\n" for number in range(4)))
    with pytest.raises(MaskError, match=r"names 1 mask that does not exist \(.*m\.png\)"):
        read_csv(tmp_path, "image,label,mask\na.png,bad,m.png\n")


def test_bad_images_do_not_train(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is bad and has the role train.*give it the role test"):
        read_csv(tmp_path, "image,label,split\na.png,bad,train\n")


def test_an_image_is_listed_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is given 2 times: name each image once"):
        read_csv(tmp_path, "image\na.png\n./a.png\n")
