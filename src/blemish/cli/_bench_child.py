"""What `blemish bench` runs for each job, so that time and memory are those of that job alone."""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from blemish import api, data
from blemish.errors import BlemishError
from blemish.evaluate import Evaluation, evaluate
from blemish.evaluate.bench import Job

__all__ = ["FitJob", "command_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob(Job):
    weights: str | None = None
    layout: str | None = None
    content: str = ""
    """Of data and weights: what was measured of other pictures under the same name is not taken over."""


def command_of(job: Job) -> Sequence[str]:
    return [sys.executable, "-m", __name__, json.dumps(asdict(job))]


def run(job: FitJob) -> Evaluation:
    samples = data.read(job.data, layout=job.layout)
    if job.klass is not None:
        samples = samples.klass(job.klass)
    data.check_masks(samples)
    model = api.fit(
        samples,
        method=job.method,
        preset=job.preset,
        backbone=job.backbone or "lite0",
        weights=job.weights,
        size=job.size or 256,
        seed=job.seed,
        options=job.options,
    )
    with tempfile.TemporaryDirectory() as folder:  # what is measured is what was read back from a file
        path = Path(folder) / "bench.blemish"
        model.save(path)
        return evaluate(api.load(path), samples)


if __name__ == "__main__":
    try:
        print(json.dumps(run(FitJob(**json.loads(sys.argv[1]))).to_json()))
    except BlemishError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
