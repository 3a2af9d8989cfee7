"""Updates of a network through Fabric: on one device or several, in 32 or 16 bits, resumable after a kill.

What a task draws is a pure function of (seed, update, forward). So a checkpoint is the network, the optimiser
and the number of updates done, and a run that was killed ends where an undisturbed one would have.
"""

import json
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b, file_digest
from importlib import import_module
from itertools import chain, islice, repeat
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish.data import Samples
from blemish.defects import Source
from blemish.errors import MissingExtraError, OutputError, UsageError
from blemish.methods._contract import Run
from blemish.nets.allocator import freed_memory_kept

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PLACES = ("attention", "vit", "vlm")
"""Settings that may name a file or folder of weights."""
ASIDE_SHARE, ASIDE_MOST = 0.1, 16
LAST = 20
"""Updates whose mean loss is told."""
SAVE_EVERY = 60.0
"""Seconds of work that a kill may cost."""
HALF, FULL = "bf16-mixed", "32-true"
"""Fabric's words."""


class Task(ABC):
    """What a method trains, and how."""

    label: str
    network: nn.Module
    updates: int
    forwards: int = 1
    """Forward passes whose gradients make up one update."""
    check_every: int = 0
    """Updates between two looks at pictures kept aside; 0: none, and the last weights count."""
    patience: int = 0
    """Looks in a row without a better one, after which it ends. The best weights count."""
    clip: float = 0.0
    """Length that the gradient of an update is shortened to; 0: none is."""
    dense: bool = False
    """Whether CPUs that have bf16 are quicker with it: at full products they are, at depthwise ones not."""

    @abstractmethod
    def optimiser(self) -> torch.optim.Optimizer: ...

    @abstractmethod
    def rate(self, update: int) -> float:
        """Learning rate of update 1, 2, … `updates`."""

    @abstractmethod
    def phase(self, update: int) -> None:
        """Set up the network for an update: what is frozen, what is in training mode."""

    @abstractmethod
    def draw(self, update: int, forward: int) -> Any:
        """A batch, made ahead on a thread; nothing but its numbers may sway it."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Any) -> Tensor: ...

    def check(self) -> float:
        """How far off the network, in eval mode, is on the pictures kept aside."""
        raise NotImplementedError


@dataclass(slots=True)
class Best:
    """The weights that did best on the pictures kept aside."""

    value: float = math.inf
    update: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, value: float, update: int, network: nn.Module) -> None:
        if value < self.value:
            self.value, self.update = value, update
            self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path | None
    key: Mapping[str, Any]
    """What a run must agree with to go on from it."""

    def save(self, network: nn.Module, optimiser: torch.optim.Optimizer, update: int, best: Best) -> None:
        if self.path is None:
            return
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in best.state.items()}
        for number, state in optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser.{number}.{name}": torch.as_tensor(value)
                for name, value in state.items()
                if value is not None
            }
        part = self.path.with_name(f".{uuid4().hex}.part")
        try:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                part,
                {
                    "update": str(update),
                    "best": json.dumps([best.value, best.update]),
                    "key": json.dumps(self.key, sort_keys=True),
                },
            )
            part.replace(self.path)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"The checkpoint {self.path} cannot be written ({error}): make room, or choose another place."
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def read(self) -> tuple[int, Best, dict[str, Tensor]]:
        """How many updates are done, the best weights so far, and what was saved after the last update."""
        assert self.path is not None
        try:
            with safe_open(self.path, "pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            key, update = json.loads(told["key"]), int(told["update"])
            value, best = json.loads(told["best"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UsageError(
                f"The checkpoint {self.path} cannot be read ({error}): fit again without --resume."
            ) from error
        if other := [name for name in self.key if key.get(name) != json.loads(json.dumps(self.key[name]))]:
            raise UsageError(
                f"The checkpoint {self.path} belongs to another fit (different: {', '.join(other)}): repeat "
                "that fit's command with --resume, or fit again without it."
            )
        return update, Best(value, best, named("best", tensors)), tensors

    def load(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, Best]:
        """Network and optimiser are then as after the last of the updates that are done."""
        update, best, tensors = self.read()
        network.load_state_dict(named("network", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in named("optimiser", tensors).items():
            number, kind = name.split(".")
            state.setdefault(int(number), {})[kind] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        return update, best


def named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{part}."
    return {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}


def key(method: str, config: Any, source: Source | bytes, run: Run) -> dict[str, Any]:
    """What two fits must have in common for one to go on where the other was; of pictures a hash will do."""
    shown = source if isinstance(source, bytes) else source.images.tobytes() + source.foreground.tobytes()
    return {
        "method": method,
        "preset": run.preset,
        **asdict(config),
        **{name: contents(Path(getattr(config, name))) for name in PLACES if getattr(config, name, "")},
        "backbone": run.backbone,
        "weights": None if run.weights is None else digest(run.weights),
        "precision": run.precision,
        "size": run.size,
        "seed": run.seed,
        "pictures": blake2b(shown).hexdigest(),
    }


def contents(place: Path) -> list[str]:
    """What a file or the files of a folder hold; the name alone of what is on a hub."""
    inside = sorted(place.iterdir()) if place.is_dir() else [place]
    return [str(place), *(digest(file) for file in inside if file.is_file())]


def digest(path: Path) -> str:
    with path.open("rb") as file:  # of gigabytes, some
        return file_digest(file, blake2b).hexdigest()


def cosine(first: float, update: int, updates: int) -> float:
    """A learning rate that falls from `first`, at update 1, towards 0."""
    return first * (1 + math.cos(math.pi * (update - 1) / updates)) / 2


def kept_aside(train: Samples, seed: int, *, wanted: bool = True) -> tuple[Samples, Samples]:
    """The images to learn from, and a tenth that only tells when to stop; never the only one of a product."""
    if not wanted or len(train) < 2:
        return train, train.with_items([])
    order = np.random.default_rng([seed]).permutation(len(train)).tolist()
    count = min(max(round(ASIDE_SHARE * len(train)), 1), ASIDE_MOST, len(train) - 1)
    left = Counter(sample.klass for sample in train)
    aside: set[int] = set()
    for number in order:
        if len(aside) < count and left[train[number].klass] > 1:
            left[train[number].klass] -= 1
            aside.add(number)
    parts = [number for number in order if number not in aside], aside
    rest, kept = (train.with_items(train[number] for number in sorted(part)) for part in parts)
    return rest, kept


def reached(run: Run, key: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network of a phase as the checkpoint has it; empty where that is not of this phase."""
    if run.resume and run.checkpoint is not None:
        with suppress(UsageError):
            return named("network", Checkpoint(run.checkpoint, key).read()[2])
    return {}


def each_half(train: Samples, alone: Samples, fitted: Callable[[Samples], nn.Module]) -> Iterator[nn.Module]:
    """For each image what was fitted without its half of `alone`: training anew for each would take hours.

    Every class is halved, whatever the order.
    """
    by_class = [sample.name for sample in sorted(alone, key=lambda sample: sample.klass)]
    halves = [set(by_class[start::2]) for start in (0, 1)]
    scorers = [
        fitted(train.with_items(sample for sample in train if sample.name not in half)) for half in halves
    ]
    for sample in alone:
        yield scorers[sample.name in halves[1]]


def train(task: Task, run: Run, key: Mapping[str, Any]) -> list[float | None]:
    """All updates that are not done yet; of each its loss, None of those that were done before.

    The network is then on the CPU, in eval mode.
    """
    if run.devices > task.forwards:
        raise UsageError(
            f"{run.devices} devices are more than the {task.forwards} forward passes of an update that they "
            f"could share: ask for at most {task.forwards} with --devices."
        )
    fabric = fabric_of(run, task, run.devices)
    checkpoint = Checkpoint(run.checkpoint, key)
    if run.devices > 1:
        if run.resume:
            checkpoint.read()  # refused here, for a process of its own cannot tell anybody
        losses = fabric.launch(partial(_in_a_process_each, task, checkpoint, run.resume))
    else:
        fabric.launch()
        updates = _each_update(fabric, task, checkpoint, run.resume)
        losses = [*run.progress(updates, task.label, task.updates)]
    task.network.cpu().eval()
    return losses


def told(losses: Sequence[float | None]) -> dict[str, Any]:
    """Of a training, for the facts."""
    last = [loss for loss in losses[-LAST:] if loss is not None]
    return {"updates": len(losses), "loss": float(np.mean(last)) if last else None}


def fabric_of(run: Run, task: Task, devices: int) -> "Fabric":
    strategies = lightning("strategies")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it remarks on what it was asked for
    index = run.device.index if run.device.type != "cpu" else None  # of cpu:0 there is no other
    fabric: Fabric = lightning("fabric").Fabric(
        accelerator=run.device.type,
        devices=[index] if index is not None and devices == 1 else devices,
        precision=precision_of(run, task),
        # A phase may leave out a part of the network, whose gradients then never come.
        strategy=strategies.DDPStrategy(start_method="spawn", find_unused_parameters=True)
        if devices > 1
        else "auto",
    )
    return fabric


def lightning(module: str) -> ModuleType:
    try:
        import_module("lightning_fabric")
        return import_module(f"lightning_fabric.{module}")
    except ImportError as error:
        raise MissingExtraError("lightning-fabric", "train", "Training") from error


class Probe(NamedTuple):
    """What one forward and backward pass takes, and how long its batch takes to draw."""

    seconds: float
    megabytes: float
    drawing: float


def probe(task: Task, run: Run) -> Probe:
    """Found by doing it. The network is not the same afterwards, so give a copy of the one that counts."""
    held: dict[int, int] = {}
    device, fabric = run.device, fabric_of(run, task, 1)
    network = fabric.setup_module(task.network)

    def once(batch: Any) -> None:
        fabric.backward(task.loss(network, batch))

    def hold(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    task.phase(task.updates)
    task.draw(1, 0)  # sets up what later ones reuse
    begin = time.perf_counter()
    drawn = task.draw(2, 0)
    drawing = time.perf_counter() - begin
    batch = lightning("utilities.apply_func").move_data_to_device(drawn, device)
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        once(batch)
    taken = []
    with freed_memory_kept():
        for _ in range(5):
            begin = time.perf_counter()
            once(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - begin)
    return Probe(sorted(taken)[2], sum(held.values()) / 1e6, drawing)


def precision_of(run: Run, task: Task) -> str:
    """In Fabric's words: bf16 where it pays, unless something else is wanted; `paper` learns as published."""
    if run.precision == "auto":
        if run.preset == "paper":
            return FULL
        if run.device.type == "cuda":
            pays = torch.cuda.is_bf16_supported()
        else:
            pays = task.dense and run.device.type == "cpu" and cpu_has_bf16()
        return HALF if pays else FULL
    return {"bf16": HALF, "fp32": FULL}[run.precision]


def cpu_has_bf16() -> bool:
    """Not torch's question whether it can be imitated."""
    # The oldest torch that will do has no such question.
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _in_a_process_each(
    task: Task, checkpoint: Checkpoint, resume: bool, fabric: "Fabric"
) -> list[float | None]:
    shared = task.network.state_dict()  # by all processes and the one that waits for them
    for tensor in chain(task.network.parameters(), task.network.buffers()):
        tensor.data = tensor.data.clone()
    losses = [*_each_update(fabric, task, checkpoint, resume)]
    if fabric.is_global_zero:
        for name, value in task.network.state_dict().items():
            shared[name].copy_(value)
    fabric.barrier()
    torch.distributed.destroy_process_group()  # its threads do not always survive the end of the process
    return losses


def _each_update(
    fabric: "Fabric", task: Task, checkpoint: Checkpoint, resume: bool
) -> Iterator[float | None]:
    """One loss an update; None for those that were done before."""
    network, optimiser = fabric.setup(task.network, task.optimiser())
    done, best = checkpoint.load(task.network, optimiser.optimizer) if resume else (0, Best())
    yield from repeat(None, done)
    mine = range(fabric.global_rank, task.forwards, fabric.world_size)
    wanted = [(update, forward) for update in range(done + 1, task.updates + 1) for forward in mine]
    threads = 1 if fabric.device.type == "cpu" else min(8, os.cpu_count() or 1)
    saved = -math.inf  # the first at once: a place without room for it is told before hours of work
    with freed_memory_kept(), ThreadPoolExecutor(threads) as pool:
        ahead = deque(pool.submit(task.draw, *numbers) for numbers in wanted[: threads + 1])
        following = iter(wanted[threads + 1 :])
        for update in range(done + 1, task.updates + 1):
            if exhausted(task, best, update - 1):
                break
            task.phase(update)
            for group in optimiser.param_groups:
                group["lr"] = task.rate(update) * group.get("times", 1.0)
            total = 0.0
            for forward in mine:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(task.draw, *numbers) for numbers in islice(following, 1))
                with fabric.no_backward_sync(network, enabled=forward != mine[-1]):
                    # Gradients of devices are averaged and those of forward passes summed.
                    loss = task.loss(network, fabric.to_device(batch)) / task.forwards
                    fabric.backward(fabric.world_size * loss)
                total += loss.item()
            if not math.isfinite(total):
                raise UsageError(
                    f"The training diverged ({task.label}, update {update}): choose a lower learning rate."
                )
            if task.clip:
                fabric.clip_gradients(network, optimiser, max_norm=task.clip, error_if_nonfinite=False)
            optimiser.step()
            optimiser.zero_grad()
            if task.check_every and (update % task.check_every == 0 or update == task.updates):
                task.network.eval()
                with torch.no_grad():
                    best.offer(fabric.broadcast(task.check()), update, task.network)
            if fabric.is_global_zero and time.monotonic() - saved > SAVE_EVERY:
                checkpoint.save(task.network, optimiser.optimizer, update, best)
                saved = time.monotonic()
            yield float(fabric.all_reduce(total, reduce_op="sum"))
    if best.state:
        task.network.load_state_dict(best.state)


def exhausted(task: Task, best: Best, update: int) -> bool:
    return bool(task.check_every) and update - best.update >= task.patience * task.check_every > 0
