"""Methods × data sets × presets × seeds, each in a process of its own, and what came of them.

Every finished job is at once one line of a state file beside the result, so that a killed bench goes on where
it was. What a child runs is the caller's business: it is handed a job and gives the child's command line.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from blemish.errors import OutputError
from blemish.evaluate import published
from blemish.evaluate.evaluation import FIELDS, GROUPS, METRICS, Progress, Record, mean_record
from blemish.evaluate.writing import write_text

__all__ = ["Job", "machine", "markdown", "run", "versions"]

GROUPED_BY = ("dataset", "method", "preset", "backbone", "size")
PACKAGES = ("blemish", "numpy", "onnxruntime", "opencv-python-headless", "torch")
COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro30": "AUPRO",
    "pixel_ap": "pixel AP",
    "fit_seconds": "fit s",
    "ms_p50": "ms p50",
}
TAIL = 20  # lines of a failed child's last words that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    data: str
    method: str
    preset: str
    seed: int = 0
    klass: str | None = None
    """None: one model for all classes."""
    backbone: str | None = None
    """None, as for the size: what the method takes by itself."""
    size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


Tails = Mapping[str, Mapping[str, Sequence[str]]]
"""Of the data sets that are long-tailed lists the classes of each part, `high`, `low` and others."""


class Done(NamedTuple):
    records: list[Record]
    tier: str | None
    """Which of its tiers the method ran in, in words, if it has any."""


class _ChildError(Exception):
    pass


def run(
    jobs: Iterable[Job],
    out: Path,
    command: Callable[[Job], Sequence[str]],
    *,
    tails: Tails | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run what is not finished yet and write the result to `out`.

    A child prints, as the last line of its standard output, the JSON of its `Evaluation`. One that fails is
    listed under `failed`, and tried again the next time.
    """
    wanted = {job.key: job for job in jobs}
    here = {"machine": machine(), "versions": versions()}
    state = out.with_name(f"{out.name}.state")
    _append(state, "")  # a place that cannot be written to is better known before hours of work
    done = {key: found for key, found in _finished(state, here).items() if key in wanted}
    left = [job for job in wanted.values() if job.key not in done]
    failed = []
    for job in left if progress is None else progress(left, "bench", len(left)):
        try:
            done[job.key] = _execute(command(job))
        except _ChildError as error:
            reason, _, log = str(error).partition("\n")
            failed.append({**asdict(job), "error": reason, "log": log.splitlines()})
        else:
            _append(state, json.dumps({"key": job.key, **done[job.key]._asdict(), **here}))
    runs = [(wanted[key], done[key]) for key in wanted if key in done]
    everything = [record for _, found in runs for record in found.records]
    result = {
        "schema": 1,
        "records": everything,
        "mean": mean_record(everything),
        "groups": _groups(runs, tails or {}),
        **here,
        "failed": failed,
    }
    write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def markdown(result: Mapping[str, Any]) -> str:
    """The groups as a table, rates in percent, beside what others have published for the same."""
    sources: list[str] = []
    rows = []
    for group in result["groups"]:
        name = " · ".join(str(group[field]) for field in ("method", "preset", "backbone") if group[field])
        rows.append([_of(group), name, *_cells(group), _beside(group, sources)])
        rows += [
            [_of(part | {"dataset": GROUPS[kind]}), name, *_cells(part), "–"]
            for kind, part in group["tail"].items()
        ]
    header = ["data set (classes)", "method", *COLUMNS.values(), "published image / pixel AUROC"]
    if not sources:
        header, rows = header[:-1], [row[:-1] for row in rows]
    table = [header, ["---", "---", *("--:" for _ in header[2:])], *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    lines += ["", *(f"[{number}] {source}" for number, source in enumerate(sources, 1))] if sources else []
    tiers = dict.fromkeys((group["method"], group["tier"]) for group in result["groups"] if group["tier"])
    lines += ["", *(f"{method}: {tier}." for method, tier in tiers)] if tiers else []
    if result["failed"]:
        lines += ["", f"{len(result['failed'])} failed:", ""]
        lines += [f"* {_told(failure)}: {failure['error']}" for failure in result["failed"]]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    memory = None
    with suppress(AttributeError, OSError, ValueError):  # where the system has no sysconf, or not these names
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # No builds of a kernel: they change overnight and no figure with them.
    os_name = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])} {platform.machine()}"
    return {"cpu": cpu, "cores": cores, "memory_gb": memory, "os": os_name}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _execute(command: Sequence[str]) -> Done:
    child = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    log = [line for line in child.stderr.splitlines() if line.strip()][-TAIL:]
    if child.returncode < 0:
        name = signal.strsignal(-child.returncode) or f"signal {-child.returncode}"
        log.append(f"It was ended by the system ({name})" + (": out of memory?" if name == "Killed" else "."))
    elif child.returncode == 0:
        with suppress(IndexError, KeyError, TypeError, ValueError):
            told = json.loads(child.stdout.splitlines()[-1])
            records = told["records"]
            if records and all(record.keys() == set(FIELDS) for record in records):
                return Done(records, told.get("tier"))
        log.append("It ended well, but its last line of standard output holds no records.")
    raise _ChildError("\n".join([log[-1] if log else f"It ended with {child.returncode}.", *log]))


def _append(state: Path, line: str) -> None:
    """In one write, which other processes appending to the same file cannot split."""
    try:
        handle = os.open(state, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # The newline in front ends the torn line of somebody who was killed at writing it.
            os.write(handle, f"\n{line}\n".encode() if line else b"")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(
            f"{state} cannot be written ({error.strerror}): "
            "check that its folder exists, may be written to and has room."
        ) from error


def _finished(state: Path, here: Mapping[str, Any]) -> dict[str, Done]:
    """What was measured on this machine with these versions; all else would be passed off as it."""
    found: dict[str, Done] = {}
    for line in state.read_text("utf-8", errors="replace").split("\n"):
        with suppress(KeyError, TypeError, ValueError):
            entry = json.loads(line)
            if all(entry[name] == value for name, value in here.items()):
                found.setdefault(entry["key"], Done(entry["records"], entry["tier"]))
    return found


def _groups(runs: Iterable[tuple[Job, Done]], tails: Tails) -> list[dict[str, Any]]:
    by_group: dict[str, dict[int, dict[str, Record]]] = {}
    for job, done in runs:
        for record in done.records:
            settings = [record[name] for name in GROUPED_BY]
            shared = json.dumps([settings, job.options, job.data, done.tier], sort_keys=True)
            by_group.setdefault(shared, {}).setdefault(job.seed, {})[record["class"]] = record
    groups = []
    for shared, seeds in by_group.items():
        settings, options, data, tier = json.loads(shared)
        classes = {klass for records in seeds.values() for klass in records}
        parts = {name: classes.intersection(part) for name, part in tails.get(data, {}).items()}
        groups.append(
            {
                **dict(zip(GROUPED_BY, settings, strict=True)),
                "options": options,
                "tier": tier,
                **_means(seeds, classes),
                "tail": {name: _means(seeds, part) for name, part in parts.items() if part},
            }
        )
    return groups


def _means(seeds: Mapping[int, Mapping[str, Record]], classes: Set[str]) -> dict[str, Any]:
    """Over the classes of each seed, and of these means the mean and the spread from seed to seed."""
    # A seed that lacks a class, because its job failed, has a mean of something else.
    whole = [records for records in seeds.values() if classes <= records.keys()]
    means = [mean_record([records[klass] for klass in sorted(classes)]) for records in whole]
    return {
        "classes": sorted(classes),
        "n_runs": len(means),
        **{metric: _spread([mean[metric] for mean in means]) for metric in METRICS},
    }


def _spread(values: Iterable[float | None]) -> dict[str, float | int | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def _of(group: Mapping[str, Any]) -> str:
    return f"{group['dataset']} ({len(group['classes'])})"


def _cells(group: Mapping[str, Any]) -> list[str]:
    return [_cell(metric, group[metric]) for metric in COLUMNS]


def _cell(metric: str, spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "–"
    scale = 1 if metric in ("fit_seconds", "ms_p50") else 100
    mean = f"{scale * spread['mean']:.1f}"
    return mean if spread["std"] is None else f"{mean} ± {scale * spread['std']:.1f}"


def _beside(group: Mapping[str, Any], sources: list[str]) -> str:
    """Adds to the sources, and refers to them by number."""
    cells = []
    for metric in ("image_auroc", "pixel_auroc"):
        found = published.find(
            method=group["method"],
            backbone=group["backbone"],
            dataset=group["dataset"],
            classes=group["classes"],
            metric=metric,
        )
        if found is None:
            cells.append("–")
            continue
        value, source = found
        if source not in sources:
            sources.append(source)
        cells.append(f"{100 * value:.1f} [{sources.index(source) + 1}]")
    return " / ".join(cells)


def _told(job: Mapping[str, Any]) -> str:
    names = (Path(job["data"]).name, job["klass"], job["method"], job["preset"], job["backbone"])
    return " · ".join([*(name for name in names if name), f"seed {job['seed']}"])
