import base64
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish.data import Samples, read
from blemish.errors import MissingExtraError, OutputError
from blemish.evaluate import Evaluation, evaluate, write_report
from blemish.model import Inspector
from tests.evaluate.test_evaluation import write_tree

ToyModel = Callable[..., Inspector]
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Every element is closed in its turn; ids, links, pictures and text are kept."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(path.read_text("utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture
def evaluated(tmp_path: Path, toy_model: ToyModel) -> tuple[Evaluation, Inspector, Samples]:
    model, samples = toy_model(nearest=True), read(write_tree(tmp_path / "plates & <tins>"))
    return evaluate(model, samples), model, samples


def test_the_page_is_whole_and_needs_nothing_else(
    tmp_path: Path, evaluated: tuple[Evaluation, Inspector, Samples]
) -> None:
    path = tmp_path / "report.html"
    write_report(*evaluated, path)
    page, source = Page(path), path.read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", re.sub(r"base64,[^\"]+", "", source))
    assert all(
        value.startswith(("data:image/jpeg;base64,", "#"))
        for value in page.values("src") + page.values("href")
    )
    assert len(page.ids) == len(set(page.ids))
    named = [name for value in page.values("aria-labelledby") for name in value.split()]
    assert named
    assert set(named) <= set(page.ids)
    for value in page.values("src"):
        encoded = np.frombuffer(base64.b64decode(value.partition(",")[2]), np.uint8)
        assert cv2.imdecode(encoded, cv2.IMREAD_COLOR).shape == (267, 320, 3)
    assert sorted(path.parent.iterdir()) == [tmp_path / "plates & <tins>", path]


def test_the_page_says_what_the_evaluation_says(
    tmp_path: Path, evaluated: tuple[Evaluation, Inspector, Samples]
) -> None:
    evaluation, model, _ = evaluated
    write_report(*evaluated, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "plates & <tins>" in page.text
    assert model.calibration.statement in page.text
    for field in ("image_auroc", "pixel_auroc", "aupro30", "aupro05", "miss_rate"):
        assert f"{100 * evaluation.mean[field]:.1f} %" in page.text
    tested = evaluation.classes[0].tested
    bad = sorted((one for one in tested if one.bad), key=lambda one: one.score)
    good = sorted((one for one in tested if not one.bad), key=lambda one: -one.score)
    files = [line.strip() for line in page.text.split("\n") if re.fullmatch(r" *test/\w+/\d+\.png", line)]
    assert files == [one.name for one in [*bad[:6], *good[:6], *bad[:5:-1]]]
    for one in (*bad, *good):
        assert f"score {one.score:.3g} · p {one.p_value:.3g}" in page.text
    assert page.text.count("closest good part: train/good/000.png") == len(files)
    missed = sum(one.score < model.calibration.threshold for one in bad)
    assert f"{missed} of 8 are not rejected." in page.text
    assert page.values("points")[1].startswith("60.0,222.0 ")  # the ROC, from its origin


def test_classes_have_sections_and_a_table_of_contents(tmp_path: Path, toy_model: ToyModel) -> None:
    write_tree(tmp_path / "parts/bolt", masks=False)
    write_tree(tmp_path / "parts/nut", bad=0)
    model, samples = toy_model(classes=["bolt", "nut"]), read(tmp_path / "parts")
    write_report(evaluate(model, samples), model, samples, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.values("href") == ["#class-1", "#class-2"]
    assert {"class-1", "class-2", "class-1-roc-title"} <= set(page.ids)
    assert not {"class-1-pro-title", "class-2-roc-title", "class-2-pro-title"} & set(page.ids)
    assert "Of 8 bad pictures nobody has marked the defect" in page.text
    assert "–" in page.text
    assert "None" not in page.text


def test_scores_all_alike_or_huge_can_be_drawn(tmp_path: Path, toy_model: ToyModel) -> None:
    samples = read(write_tree(tmp_path / "plate"))
    for number, model in enumerate(
        (toy_model(constant=1e9), toy_model(constant=1e9, good_scores=[1e9, 1e9]))
    ):
        path = tmp_path / f"{number}.html"
        write_report(evaluate(model, samples), model, samples, path)
        page = Page(path)
        drawn = [
            float(value) for name in ("x", "y", "width", "height", "x1", "y2") for value in page.values(name)
        ]
        assert all(0 <= value <= 400 for value in drawn)
        assert {"class-1-scores-title", "class-1-roc-title"} <= set(page.ids)


def test_a_place_that_cannot_be_written_to_is_named(
    tmp_path: Path, evaluated: tuple[Evaluation, Inspector, Samples]
) -> None:
    (tmp_path / "kept.html").mkdir()
    for path in (tmp_path / "kept.html", tmp_path / "absent/report.html"):
        with pytest.raises(OutputError, match=rf"{path.name} cannot be written"):
            write_report(*evaluated, path)
    assert not list(tmp_path.glob(".*"))


def test_the_extra_that_is_missing_is_named(
    tmp_path: Path, evaluated: tuple[Evaluation, Inspector, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        MissingExtraError, match=r"needs jinja2: install it with `pip install 'blemish\[train\]'`"
    ):
        write_report(*evaluated, tmp_path / "report.html")
