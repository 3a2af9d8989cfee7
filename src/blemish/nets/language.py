"""Vision–language models of Hugging Face transformers: pictures and words in one space, both towers frozen.

A name that is learned is written over the token embeddings of placeholders, while the text tower runs on
their ids: so mask, positions and the place it is read from stay the business of the model's own class.
"""

import math
import re
from collections.abc import Sequence
from copy import deepcopy
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from blemish.errors import MissingExtraError, UsageError
from blemish.nets.hub import Hub

PLACEHOLDER, PADDING = -1, -2
ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
"""Of a model on the hub."""


class Prompt(NamedTuple):
    """Texts as rows of token ids, all of one length."""

    ids: Tensor
    mask: Tensor
    places: Tensor
    """Where the name stands, whose embeddings are not those of the ids."""


class VisionLanguage(nn.Module):
    """Pictures in 0..1 → features (N, C, h, w), patches (N, width, h, w) and embeddings (N, width)."""

    kind: ClassVar[str]
    tier: ClassVar[int] = 1
    patches_in_text_space: ClassVar[bool] = True
    reads_padding: ClassVar[bool] = False
    words: ClassVar[str] = "text_model.embeddings.token_embedding"
    projection: ClassVar[str] = "text_projection"
    shown: list[str]
    """The blocks that features come of."""

    def __init__(self, model: str, net: Any, tokenizer: Any) -> None:
        super().__init__()
        self.name = model
        self.net: Any = net.requires_grad_(False)
        self.vision = Hub(model, net.vision_model, local=True)
        self.licence = self.vision.licence
        self.tokenizer = tokenizer
        self.word_table = net.get_submodule(self.words)
        self.width = int(net.get_submodule(self.projection).out_features)
        self.token_width = int(self.word_table.embedding_dim)
        self.limit = min(tokenizer.model_max_length, net.config.text_config.max_position_embeddings)
        words = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
        if not words:  # transformers makes such a tokenizer of absent files
            raise UsageError(f"The tokenizer of {model} knows no words: put its files beside the weights.")
        self.filler = min(words)  # no special one: CLIP is read where its end-of-text token stands first
        framed, inner = tokenizer("a").input_ids, self.tokens("a")
        start = framed.index(inner[0])
        self.head, self.tail = framed[:start], framed[start + len(inner) :]
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Frozen, and so are dropout and the statistics of batch norms."""
        del mode
        return super().train(False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each block that features come of."""
        channels = {tap.name: tap.channels for tap in self.vision.taps}
        return tuple(channels[block] for block in self.shown)

    def features(self, pictures: Tensor) -> Tensor:
        return self(pictures)[0]

    def patch_embed(self, pictures: Tensor) -> Tensor:
        return self(pictures)[1]

    def image_embed(self, pictures: Tensor) -> Tensor:
        return self(pictures)[2]

    def states(self, pictures: Tensor, blocks: Sequence[str]) -> list[Tensor]:
        found = self.vision.run(self.vision.normalised(pictures), frozenset(blocks))
        return [found[block] for block in blocks]

    def tokens(self, text: str) -> list[int]:
        text = text.strip()  # a space at an end would be a token of its own to some
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def word_embedding(self, text: str) -> Tensor:
        """(tokens, token_width)"""
        ids = torch.tensor(self.tokens(text), dtype=torch.long)
        return self.word_table(ids.to(self.word_table.weight.device))

    def embed_words(self, texts: Sequence[str], slots: int) -> Prompt:
        """Of texts such as "a photo of a normal {}", where a name of so many tokens will stand for {}."""
        rows = [self.row(text, slots) for text in texts]
        length = self.limit if self.reads_padding else max(map(len, rows))
        ids = torch.tensor([row + [PADDING] * (length - len(row)) for row in rows])
        places, padding = ids == PLACEHOLDER, ids == PADDING
        ids = ids.masked_fill(places, self.filler).masked_fill(padding, self.tokenizer.pad_token_id)
        return Prompt(ids, (~padding | self.reads_padding).long(), places)

    def row(self, text: str, slots: int) -> list[int]:
        if text.count("{}") != 1:
            raise UsageError(f"The text {text!r} has no single place for a name: write {{}} in it once.")
        before, after = map(self.tokens, text.split("{}"))
        row = [*self.head, *before, *[PLACEHOLDER] * slots, *after, *self.tail]
        if len(row) > self.limit:
            raise UsageError(
                f"The text {text!r} comes to {len(row)} tokens with a name of {slots}, and {self.name} reads "
                f"{self.limit}: shorten it."
            )
        return row

    def encode_text(self, prompt: Prompt, names: Tensor) -> Tensor:
        """Names (C, slots, token_width) → (C·texts, width), normalised; each name goes through all texts."""
        ids, mask, places = (part.to(names.device).repeat(len(names), 1) for part in prompt)
        written = names[:, None].expand(-1, len(prompt.ids), -1, -1).flatten(0, 2)

        def write(_table: nn.Module, _ids: Any, rows: Tensor) -> Tensor:
            return rows.index_put((places,), written)

        with self.word_table.register_forward_hook(write):
            found = self.net.get_text_features(input_ids=ids, attention_mask=mask)
        # transformers 5 gives more than the tensor.
        return F.normalize(getattr(found, "pooler_output", found), dim=1)


class Align(VisionLanguage):
    """A convolutional tower without a projection: its last map lies in the space of texts as it is."""

    kind = "align"
    tier = 0
    words = "text_model.embeddings.word_embeddings"

    def __init__(self, model: str, net: Any, tokenizer: Any) -> None:
        super().__init__(model, net, tokenizer)
        config = net.config.vision_config
        blocks = list(self.vision.blocks)
        ends = [blocks[end - 1] for end in stage_ends(config)]
        self.shown = [ends[stage - 1] for stage in (1, 2, 3, 5)]
        self.last = ends[-1]
        self.pool: Any = {"mean": torch.mean, "max": torch.amax}[config.pooling_type]

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *stages, last = self.states(pictures, [*self.shown, self.last])
        grid = [int(side) for side in stages[-1].shape[-2:]]
        *features, patches = (F.interpolate(x, size=grid, mode="bilinear") for x in (*stages, last))
        return torch.cat(features, dim=1), patches, F.normalize(self.pool(last, dim=(2, 3)), dim=1)


def stage_ends(config: Any) -> list[int]:
    """How many blocks there are up to the end of each stage."""
    return list(accumulate(math.ceil(config.depth_coefficient * count) for count in config.num_block_repeats))


class Transformer(VisionLanguage):
    def __init__(self, model: str, net: Any, tokenizer: Any) -> None:
        super().__init__(model, net, tokenizer)
        blocks = list(self.vision.blocks)
        self.shown = [blocks[max(len(blocks) * part // 4, 1) - 1] for part in (1, 2, 3)]
        self.last = blocks[-2:]

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = self.grid(pictures)
        *quarters, before, last = self.states(pictures, [*self.shown, *self.last])
        patches, image = self.embedded(before, last)
        features, patches = (
            # The patches come last, after CLIP's class token.
            x[:, -rows * columns :].transpose(1, 2).reshape(-1, x.shape[2], rows, columns)
            for x in (torch.cat(quarters, dim=2), patches)
        )
        return features, patches, F.normalize(image, dim=1)

    def embedded(self, before: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and picture, from the tokens before and after the last block."""
        raise NotImplementedError

    def grid(self, pictures: Tensor) -> tuple[int, int]:
        patch: int = self.net.config.vision_config.patch_size
        height, width = (int(side) for side in pictures.shape[-2:])
        if height % patch or width % patch:
            right = max(round(max(height, width) / patch), 1) * patch
            raise UsageError(
                f"{self.name} works on patches of {patch} pixels, which do not divide {width}×{height}: "
                f"choose a size that they do, such as {right}."
            )
        return height // patch, width // patch


class Clip(Transformer):
    """Its last block gathers from everywhere, which leaves patches poorly localised. With values in place of
    queries and keys, and no MLP, they gather from patches of their kind (CLIP Surgery, arXiv 2304.05653).
    """

    kind = "clip"
    plain = False

    def __init__(self, model: str, net: Any, tokenizer: Any) -> None:
        super().__init__(model, net, tokenizer)
        block = net.vision_model.encoder.layers[-1]
        self.norm = block.layer_norm1
        self.alike = deepcopy(block.self_attn)
        self.alike.q_proj = self.alike.k_proj = self.alike.v_proj

    def embedded(self, before: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        norm, project = self.net.vision_model.post_layernorm, self.net.visual_projection
        tokens = last if self.plain else before + self.alike(self.norm(before))[0]
        return project(norm(tokens)), project(norm(last[:, 0]))


class Siglip(Transformer):
    """A head over the patches makes the picture's embedding: they lie in another space than texts."""

    kind = "siglip"
    patches_in_text_space = False
    reads_padding = True  # read at the last position, and trained on texts padded to the limit
    projection = "text_model.head"

    def embedded(self, before: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        del before
        tokens = self.net.vision_model.post_layernorm(last)
        return tokens, self.net.vision_model.head(tokens)


KINDS: dict[str, type[VisionLanguage]] = {kind.kind: kind for kind in (Align, Clip, Siglip)}


def load_language(model: str, *, plain: bool = False) -> VisionLanguage:
    """A folder, or an id of the hub whose files were fetched before: no run waits for a download.

    `plain`: CLIP's patches as its last block gives them.
    """
    try:
        from transformers import AutoConfig, AutoModel, ImageProcessingMixin
    except ImportError as error:
        raise MissingExtraError("transformers", "hub", f"The vision–language model {model}") from error
    try:
        kind = AutoConfig.from_pretrained(model, local_files_only=True).model_type
        if kind not in KINDS:
            raise UsageError(
                f"{model} is of the kind {kind!r}, whose texts and patches we can't get at: choose one of "
                f"the kinds {', '.join(KINDS)}, such as kakaobrain/align-base."
            )
        # Hub would take ImageNet's normalisation for an absent one.
        ImageProcessingMixin.get_image_processor_dict(model, local_files_only=True)
        net, report = AutoModel.from_pretrained(model, output_loading_info=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        if not Path(model).exists():
            fetch = f", or fetch it once with `hf download {model}`" if ID.fullmatch(model) else ""
            raise UsageError(
                f"The vision–language model {model} is not among the local files: give the folder that it is "
                f"in{fetch}."
            ) from error
        raise UsageError(
            f"The vision–language model {model} can't be loaded; check its files: {reason}"
        ) from error
    unneeded = ("text_model.pooler.", "logit_", "temperature")
    if absent := [key for key in report["missing_keys"] if not key.startswith(unneeded)]:
        raise UsageError(f"{model} lacks weights, such as {min(absent)}: choose a complete model.")
    language = KINDS[kind](model, net.float(), load_tokenizer(model))
    if isinstance(language, Clip):
        language.plain = plain
    return language


def load_tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True)
    except ImportError as error:
        raise UsageError(
            f"The tokenizer of {model} needs sentencepiece: install it with "
            "`pip install sentencepiece protobuf`."
        ) from error
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"The tokenizer of {model} can't be loaded; put its files beside the weights: {reason}"
        ) from error
