import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blemish.errors import OutputError
from blemish.evaluate import published
from blemish.evaluate.bench import Job, markdown, run
from blemish.evaluate.evaluation import FIELDS, METRICS

# Stands for a fit and an evaluation: a real process that leaves a trace of every start, and a record.
CHILD = """
import json, os, sys
job, trace, fields = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
with open(trace, "a") as file:
    file.write(f"{job['method']} {job['seed']} {job['klass']}\\n")
print("a library talks", file=sys.stderr)
print("and talks")
if job["options"].get("fails"):
    if not os.path.exists(job["options"]["fails"]):
        sys.exit("Traceback: a long story\\nThe memory bank needs 3 GB, 2 GB are free: give --budget.")
if job["options"].get("dies"):
    os.kill(os.getpid(), 9)
if job["options"].get("mute"):
    sys.exit()
record = dict.fromkeys(fields) | {
    "dataset": "mvtec_ad", "class": job["klass"] or "", "method": job["method"], "preset": job["preset"],
    "backbone": "resnet18", "size": [256, 256], "seed": job["seed"], "n_test": 10,
    "fit_seconds": 10.0 + job["seed"],
    "image_auroc": 0.95 + 0.01 * job["seed"] - (0.1 if job["klass"] == "screw" else 0),
}
tier = {"tier": "tier 1: of three"} if job["method"] == "ltad" else {}
print(json.dumps({"schema": 1, "records": [record], "mean": record, **tier}))
"""


class Bench:
    def __init__(self, folder: Path) -> None:
        self.out, self.trace = folder / "bench.json", folder / "trace"

    def command(self, job: Job) -> list[str]:
        return [sys.executable, "-c", CHILD, job.key, str(self.trace), json.dumps(FIELDS)]

    def run(self, *jobs: Job, **given: Any) -> dict[str, Any]:
        return run(jobs, self.out, self.command, **given)

    def started(self) -> list[str]:
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        self.trace.unlink(missing_ok=True)
        return lines


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def job(seed: int = 0, klass: str | None = "grid", method: str = "patchcore", **options: Any) -> Job:
    return Job(data="/data/mvtec_ad", method=method, preset="fast", seed=seed, klass=klass, options=options)


def test_the_mean_is_over_classes_and_the_spread_from_seed_to_seed(bench: Bench) -> None:
    result = bench.run(*(job(seed, klass) for seed in (0, 1, 2) for klass in ("grid", "screw")), job(0))
    assert result == json.loads(bench.out.read_text())
    assert list(result) == ["schema", "records", "mean", "groups", "machine", "versions", "failed"]
    assert len(result["records"]) == 6
    assert (result["mean"]["image_auroc"], result["mean"]["n_test"]) == (pytest.approx(0.91), 60)
    [group] = result["groups"]
    assert {
        name: group[name] for name in ("dataset", "method", "preset", "backbone", "n_runs", "classes")
    } == {
        "dataset": "mvtec_ad",
        "method": "patchcore",
        "preset": "fast",
        "backbone": "resnet18",
        "n_runs": 3,
        "classes": ["grid", "screw"],
    }
    assert set(METRICS) <= set(group)
    assert group["image_auroc"] == {"mean": pytest.approx(0.91), "std": pytest.approx(0.01), "n": 3}
    assert group["pixel_auroc"] == {"mean": None, "std": None, "n": 0}
    assert result["versions"]["python"].startswith("3.")
    assert result["versions"]["numpy"]
    assert result["machine"]["cores"] >= 1
    single = bench.run(job(0))["groups"][0]["image_auroc"]
    assert single == {"mean": pytest.approx(0.95), "std": None, "n": 1}


def test_a_bench_goes_on_where_it_was(bench: Bench, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    jobs = [job(0), job(1, fails=str(mended)), job(2)]
    result = bench.run(*jobs)
    assert len(bench.started()) == 3
    assert [record["seed"] for record in result["records"]] == [0, 2]
    [failure] = result["failed"]
    assert failure["seed"] == 1
    assert failure["error"] == "The memory bank needs 3 GB, 2 GB are free: give --budget."
    assert failure["log"][0] == "a library talks"
    assert "1 failed" in markdown(result)
    assert "seed 1: The memory bank needs 3 GB" in markdown(result)
    mended.touch()
    again = bench.run(*jobs, job(3))
    assert bench.started() == ["patchcore 1 grid", "patchcore 3 grid"]
    assert [record["seed"] for record in again["records"]] == [0, 1, 2, 3]
    assert not again["failed"]


def test_killed_or_silent_children_are_listed(bench: Bench) -> None:
    result = bench.run(job(0, dies=True), job(1, mute=True))
    assert result["records"] == result["groups"] == []
    killed, mute = (failure["error"] for failure in result["failed"])
    assert killed == "It was ended by the system (Killed): out of memory?"
    assert mute == "It ended well, but its last line of standard output holds no records."


def test_a_seed_that_lacks_a_class_does_not_shift_the_mean(bench: Bench) -> None:
    result = bench.run(*(job(seed, klass) for seed in (0, 1) for klass in ("grid", "screw")), job(2, "grid"))
    [group] = result["groups"]
    assert len(result["records"]) == 5
    assert (group["n_runs"], group["image_auroc"]["n"]) == (2, 2)
    assert group["image_auroc"]["mean"] == pytest.approx(0.905)


def test_head_and_tail_have_means_of_their_own_and_the_tier_is_told(bench: Bench) -> None:
    parts = {"high": ("grid",), "low": ("screw", "nut"), "few": ("bolt",)}
    jobs = [job(seed, klass, "ltad") for seed in (0, 1) for klass in ("grid", "nut", "screw")]
    for _ in range(2):  # the second time from the state file
        result = bench.run(*jobs, job(0), tails={"/data/mvtec_ad": parts})
        [long, other] = result["groups"]
        assert (long["tier"], other["tier"]) == ("tier 1: of three", None)
        assert {name: part["classes"] for name, part in long["tail"].items()} == {
            "high": ["grid"],
            "low": ["nut", "screw"],
        }
        assert long["tail"]["high"]["image_auroc"]["mean"] == pytest.approx(0.955)
        assert long["tail"]["low"]["image_auroc"]["mean"] == pytest.approx(0.905)
        assert long["tail"]["low"]["n_runs"] == 2
        assert [line.split("|")[1:4] for line in markdown(result).splitlines()[2:5]] == [
            [" mvtec_ad (3) ", " ltad · fast · resnet18 ", " 92.2 ± 0.7 "],
            [" mean, High (1) ", " ltad · fast · resnet18 ", " 95.5 ± 0.7 "],
            [" mean, Low (2) ", " ltad · fast · resnet18 ", " 90.5 ± 0.7 "],
        ]
        assert markdown(result).endswith("\nltad: tier 1: of three.\n")
    assert len(bench.started()) == 7
    assert bench.run(job(0))["groups"][0]["tail"] == {}


def test_the_state_file_survives_a_torn_line_and_a_second_writer(bench: Bench) -> None:
    bench.run(job(0))
    state = bench.out.with_name("bench.json.state")
    whole = state.read_text()
    state.write_text(whole + whole.strip()[:40])  # killed while writing
    bench.run(job(0), job(1))
    assert bench.started() == ["patchcore 0 grid", "patchcore 1 grid"]
    script = (
        "import sys, json; from pathlib import Path; from blemish.evaluate.bench import Job, run\n"
        "jobs = [Job(**fields) for fields in json.loads(sys.argv[1])]\n"
        "child, *rest = sys.argv[3:]\n"
        "run(jobs, Path(sys.argv[2]), lambda job: [sys.executable, '-c', child, job.key, *rest])"
    )
    halves = [[job(seed) for seed in seeds] for seeds in ((10, 11, 12), (20, 21, 22))]
    rest = [str(bench.out), CHILD, str(bench.trace), json.dumps(FIELDS)]
    writers = [
        subprocess.Popen([sys.executable, "-c", script, f"[{','.join(one.key for one in half)}]", *rest])
        for half in halves
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(bench.started()) == 6
    result = bench.run(*halves[0], *halves[1], job(0), job(1))
    assert bench.started() == []
    assert sorted(record["seed"] for record in result["records"]) == [0, 1, 10, 11, 12, 20, 21, 22]


def test_what_other_versions_measured_is_measured_anew(bench: Bench) -> None:
    bench.run(job(0))
    state = bench.out.with_name("bench.json.state")
    state.write_text(state.read_text().replace('"numpy": "', '"numpy": "0.'))
    bench.run(job(0))
    assert len(bench.started()) == 2


def test_a_place_that_cannot_be_written_to_is_found_before_any_work(bench: Bench, tmp_path: Path) -> None:
    bench.out = tmp_path / "absent" / "bench.json"
    with pytest.raises(OutputError, match=r"absent/bench\.json\.state cannot be written"):
        bench.run(job(0))
    assert bench.started() == []


def test_the_table_sets_published_numbers_beside_ours(bench: Bench) -> None:
    result = bench.run(
        *(job(seed, klass) for seed in (0, 1) for klass in ("grid", "screw")), job(0, "bolt", "ear")
    )
    assert markdown(result).splitlines()[:6] == [
        "| data set (classes) | method | image AUROC | pixel AUROC | AUPRO | pixel AP | fit s | ms p50 "
        "| published image / pixel AUROC |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
        "| mvtec_ad (2) | patchcore · fast · resnet18 | 90.5 ± 0.7 | – | – | – | 10.5 ± 0.7 | – "
        "| 94.5 [1] / 97.3 [1] |",
        "| mvtec_ad (1) | ear · fast · resnet18 | 95.0 | – | – | – | 10.0 | – | – / – |",
        "",
        "[1] README of open-edge-platform/anomalib, PatchCore, seed 42",
    ]
    assert "published" not in markdown(bench.run(job(0, "bolt", "ear")))


def test_published_numbers_are_sourced_and_found_only_for_the_same_thing() -> None:
    numbers = published.read()
    assert all(number.source and 0 < number.value <= 1 for number in numbers)
    known = {(n.method, n.backbone, n.dataset, n.klass, n.metric, n.source) for n in numbers}
    assert len(known) == len(numbers)
    for source in {n.source for n in numbers}:
        for metric in ("image_auroc", "pixel_auroc", "pro"):  # a slip of the pen would move the mean
            rows = [n for n in numbers if (n.source, n.metric, n.dataset) == (source, metric, "mvtec_ad")]
            for backbone in {n.backbone for n in rows}:
                values = {n.klass: n.value for n in rows if n.backbone == backbone}
                if len(values) == 16:
                    mean = values.pop("mean")
                    assert sum(values.values()) / 15 == pytest.approx(mean, abs=6e-4), (source, metric)
    classes = {n.klass for n in numbers if (n.method, n.dataset) == ("patchcore", "mvtec_ad")} - {"mean"}
    assert len(classes) == 15

    def image(**changes: Any) -> float | None:
        asked = {"method": "patchcore", "backbone": "resnet18", "dataset": "MVTec", "classes": classes}
        found = published.find(**asked | changes, metric="image_auroc")
        return found and found[0]

    assert image() == 0.973
    assert image(backbone="wide_resnet50_2") == 0.992
    assert image(method="knn") == 0.973  # PatchCore, by its name here
    assert image(classes=["screw"]) == pytest.approx(0.943)
    assert image(method="reb", backbone="lite0") == 0.995  # its source names no backbone
    assert image(method="reb", classes=["screw"]) is None
    assert image(method="reb", dataset="btad", classes=["01", "02", "03"]) == 0.96
    assert image(backbone="lite0") is image(dataset="screws") is image(classes=["bolt"]) is None
