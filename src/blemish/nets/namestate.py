"""Learned names of classes and a shared normal–abnormal direction, with or without a language.

Paper: Ho, Peng and Vasconcelos, "Long-Tailed Anomaly Detection with Learnable Class Names", arXiv 2403.20236:
names are token embeddings that learn through the frozen text tower of a vision–language model.
Ours: beside vision-only backbones a small tower over name and state vectors takes the text tower's place
(text-free adaptation). It knows no words: what an embedding means comes from the pictures alone.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.language import Prompt, VisionLanguage

NamesFrom = Literal["learned", "given", "object"]
TOKEN = 64
"""Length of a name or a state."""
TEMPERATURE = 0.07
COMPOSED = 0.3
"""Gain of the part of the tower that adds nothing up, so that abnormal means much the same to all names."""
KINSHIP = 0.1
"""Temperature at which a class's neighbours are weighed."""
GEOMETRY, SHRINKAGE = 0.5, 0.1
NORMAL = "normal", "flawless", "perfect", "unblemished"
ABNORMAL = "damaged", "broken", "defective", "abnormal"
OBJECT = "object"
SPREAD = 0.02
"""Deviation of learned tokens from the word that they start at."""


class Tables(NamedTuple):
    """(classes, width) each, of unit vectors: the names alone, and as normal and abnormal ones."""

    bare: Tensor
    normal: Tensor
    abnormal: Tensor


def shares(images: Tensor, table: Tensor) -> Tensor:
    """(N, classes): how far unit vectors (N, width) look like each name."""
    return (images @ table.T / TEMPERATURE).softmax(1)


def name_loss(images: Tensor, table: Tensor, classes: Tensor) -> Tensor:
    """A name means that the pictures of its class are told by it. For batches that have classes alike."""
    return F.cross_entropy(images @ table.T / TEMPERATURE, classes)


class Tower(nn.Module):
    """T(v, s) = norm(W_s s + W_v v + W_o GELU(W_1 [s, v, s·v])), at random and orthogonal."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.of_name = orthogonal(width, TOKEN, generator)
        self.of_state = orthogonal(width, TOKEN, generator)
        self.inner = orthogonal(width, 3 * TOKEN, generator)
        self.outer = orthogonal(width, width, generator, COMPOSED)

    def forward(self, state: Tensor, names: Tensor) -> Tensor:
        """One state (TOKEN,), names (…, TOKEN)."""
        states = state.expand_as(names)
        hidden = F.gelu(F.linear(torch.cat([names, states, names * states], -1), self.inner))
        composed = F.linear(hidden, self.outer)
        return F.normalize(F.linear(names, self.of_name) + F.linear(states, self.of_state) + composed, dim=-1)


def orthogonal(rows: int, columns: int, generator: torch.Generator, gain: float = 1.0) -> nn.Parameter:
    weight = torch.empty(rows, columns)
    return nn.Parameter(nn.init.orthogonal_(weight, gain, generator))


class NameState(nn.Module):
    """Names of classes, the states normal and abnormal, and a tower for both.

    `looks` (classes, width): the mean vectors of the classes' pictures, where the names start.
    """

    def __init__(
        self,
        looks: Tensor,
        counts: Sequence[int],
        *,
        naming: NamesFrom = "learned",
        tower: Literal["trained", "frozen"] = "trained",
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.learned, self.trained = naming == "learned", naming == "learned" and tower == "trained"
        self.tower = Tower(looks.shape[1], generator)
        self.looks: Tensor
        self.rarity: Tensor
        self.normal: Tensor
        self.register_buffer("looks", F.normalize(looks.float(), dim=1))
        self.register_buffer("rarity", 1 / torch.tensor(counts).float())
        self.register_buffer("normal", torch.zeros(TOKEN))
        start = self.looks if naming != "object" else self.looks.mean(0).expand_as(self.looks)
        self.names = nn.Parameter(start @ torch.linalg.pinv(self.tower.of_name.detach()).T)
        self.abnormal = nn.Parameter(F.normalize(torch.randn(TOKEN, generator=generator), dim=0))

    def learn(self, what: Literal["names", "state"]) -> None:
        """First the names, with the tower where it is trained; then only what abnormal means."""
        self.names.requires_grad_(what == "names" and self.learned)
        self.tower.requires_grad_(what == "names" and self.trained)
        self.abnormal.requires_grad_(what == "state")

    def forward(self) -> Tables:
        normal = self.tower(self.normal, self.names)
        return Tables(normal, normal, self.tower(self.abnormal, self.names))

    def regulariser(self) -> Tensor:
        return GEOMETRY * self.geometry() + SHRINKAGE * self.shrinkage()

    def geometry(self) -> Tensor:
        """Products that look alike are called alike."""
        table = self.tower(self.normal, self.names)
        off = table @ table.T - self.looks @ self.looks.T
        return off.square().sum() - off.diagonal().square().sum()

    def shrinkage(self) -> Tensor:
        """A name is drawn to those of similar classes, the more the fewer pictures vouch for it."""
        if len(self.names) < 2:
            return self.names.new_zeros(())
        alike = (self.looks @ self.looks.T).fill_diagonal_(-torch.inf)
        around = (alike / KINSHIP).softmax(1) @ self.names
        return (self.rarity * (self.names - around).square().sum(1)).sum()

    def name_for(self, images: Tensor, *, updates: int = 200, rate: float = 0.02) -> Tensor:
        """(TOKEN,): a name for a class that is not there, from unit vectors (k, width) of its pictures.

        Nothing but the name learns. It starts as no name in particular, the mean of all.
        """
        with torch.enable_grad():
            name = self.names.detach().mean(0).requires_grad_()
            known = self.tower(self.normal, self.names).detach()
            optimiser = torch.optim.Adam([name], lr=rate)
            asked = torch.full((len(images),), len(known))
            for _ in range(updates):
                table = torch.cat([known, self.tower(self.normal, name[None])])
                (name.grad,) = torch.autograd.grad(name_loss(images, table, asked), name)
                optimiser.step()
        return name.detach()


class Words(nn.Module):
    """Names of classes as token embeddings, read by the text tower of a vision–language model.

    The tower is no part of this module: it is frozen, large, and not needed once the names are learned.
    """

    def __init__(
        self,
        language: VisionLanguage,
        classes: Sequence[str],
        *,
        naming: NamesFrom = "learned",
        tokens: int = 4,
        ensemble: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.language = (language,)  # the tuple keeps it out of the state
        self.learned = naming == "learned"
        self.adjectives = len(NORMAL) if ensemble else 1
        generator = torch.Generator().manual_seed(seed)
        words = [spoken(each) if naming == "given" else OBJECT for each in classes]
        starts = [language.word_embedding(word) for word in words]
        if self.learned:
            middle = [start.mean(0).expand(tokens, -1) for start in starts]
            noise = [SPREAD * torch.randn(start.shape, generator=generator) for start in middle]
            starts = [start + each for start, each in zip(middle, noise, strict=True)]
        self.names = nn.ParameterList(nn.Parameter(start.clone()) for start in starts)

    def learn(self, what: Literal["names", "state"]) -> None:
        self.requires_grad_(what == "names" and self.learned)

    def forward(self) -> Tables:
        """Names of one length go through the tower together."""
        of_length: dict[int, list[int]] = {}
        for number, name in enumerate(self.names):
            of_length.setdefault(len(name), []).append(number)
        found: dict[int, Tensor] = {}
        for length, numbers in of_length.items():
            texts = self.read(self.prompt(length), torch.stack([self.names[number] for number in numbers]))
            found |= dict(zip(numbers, texts, strict=True))
        texts = torch.stack([found[number] for number in range(len(found))])
        bare, *states = torch.split(texts, [1, self.adjectives, self.adjectives], dim=1)
        # Of several texts of one meaning the mean direction counts.
        normal, abnormal = (F.normalize(state.mean(1), dim=1) for state in states)
        return Tables(bare[:, 0], normal, abnormal)

    def prompt(self, length: int) -> Prompt:
        adjectives = *NORMAL[: self.adjectives], *ABNORMAL[: self.adjectives]
        texts = ["{}", *(f"a photo of a {adjective} {{}}" for adjective in adjectives)]
        return self.language[0].embed_words(texts, length)

    def read(self, prompt: Prompt, names: Tensor) -> Tensor:
        language = self.language[0].to(names.device)
        return torch.unflatten(language.encode_text(prompt, names), 0, (len(names), -1))

    def regulariser(self) -> Tensor:
        return self.names[0].new_zeros(())


class Learned(nn.Module):
    """Names that learn no more: what the text tower made of them, without the tower."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        found = torch.zeros(len(Tables._fields), classes, width)
        self.tables = nn.Parameter(found, requires_grad=False)

    def keep(self, tables: Tables) -> None:
        self.tables.data.copy_(torch.stack(tables))

    def learn(self, what: Literal["names", "state"]) -> None:
        del what

    def forward(self) -> Tables:
        return Tables(*self.tables)


def spoken(name: str) -> str:
    """A folder's name as a word."""
    return name.replace("_", " ").strip() or OBJECT
