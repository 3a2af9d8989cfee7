"""What every backbone is: pictures in 0..1 in, feature maps of named taps out."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from blemish.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
UNKNOWN_LICENCE = "see the model's page"


@dataclass(frozen=True, slots=True)
class Tap:
    name: str
    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class Block:
    name: str
    """That of the tap whose map the block gives, where it gives one."""
    run: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]


class Backbone(nn.Module):
    """Input normalisation lives in here, so that nothing outside can apply it twice or not at all."""

    name: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    taps: tuple[Tap, ...]
    default_taps: tuple[str, ...]
    group: ClassVar[int] = 3  # channels that the first convolution takes

    def chain(self) -> "Sequence[Block]":
        """What the network does, in order. None where that is the business of a foreign library."""
        return ()

    def features(self, x: Tensor, wanted: frozenset[str], after: str | None = None) -> dict[str, Tensor]:
        """Feature maps of the wanted taps; nothing deeper than the deepest of them is computed.

        With `after` the block of that name has been run already, and `x` is what it gave.
        """
        chain = self.chain()
        done = [block.name for block in chain].index(after) + 1 if after else 0
        out: dict[str, Tensor] = {}
        for block in chain[done:]:
            x = block.run(x)
            if block.name in wanted:
                out[block.name] = x
            if len(out) == len(wanted):
                break
        return out

    def fresh(self) -> "Backbone":
        """The same architecture at a random start."""
        other = deepcopy(self).requires_grad_(True)
        for part in other.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        return other

    def quick(self) -> "Backbone":
        """A copy to look through and not to train, which sees the same."""
        other = deepcopy(self).eval().requires_grad_(False)
        return other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def tap(self, name: str) -> Tap:
        for tap in self.taps:
            if tap.name == name:
                return tap
        known = ", ".join(tap.name for tap in self.taps)
        raise UsageError(f"The backbone {self.name} has no tap {name!r}: choose among {known}.")

    def forward(self, x: Tensor, taps: tuple[str, ...] | None = None) -> list[Tensor]:
        wanted = [self.tap(name).name for name in taps or self.default_taps]
        maps = self.features(self.normalised(x), frozenset(wanted))
        return [maps[name] for name in wanted]

    def normalised(self, x: Tensor) -> Tensor:
        mean = x.new_tensor(self.mean)[:, None, None]
        std = x.new_tensor(self.std)[:, None, None]
        return (x - mean) / std


def colour_groups(x: Tensor) -> list[Tensor]:
    """Pictures of any channel count as pictures of three: grey is repeated, more are taken three by three."""
    channels = int(x.shape[1])  # a constant in a traced graph
    if channels % 3:
        x = x[:, torch.arange(-(-channels // 3) * 3).clamp(max=channels - 1)]
    return list(torch.split(x, 3, dim=1))


def middle_taps(taps: tuple[Tap, ...]) -> tuple[str, ...]:
    """Neither edges nor whole objects: the last tap of stride 8 and the last of stride 16."""
    last = {tap.stride: tap.name for tap in taps}
    return tuple(last[stride] for stride in (8, 16) if stride in last) or (taps[-1].name,)
