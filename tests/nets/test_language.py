import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from blemish.errors import UsageError
from blemish.nets.language import VisionLanguage, load_language, stage_ends
from blemish.nets.runtime import export
from tests.nets.zoo import VIT, save_hub_model, shaken

TEXTS = ("a photo of a normal {}", "{}", "the damaged {} in a box")
NAMES = ("metal", "cable")  # of as many tokens as each other, to every tokenizer here
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
KINDS = ("align", "clip", "clip of today", "siglip")
WORDS = ("a", "photo", "of", "normal", "the", "damaged", "in", "box", "object", *NAMES)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def wordpieces(folder: Path) -> int:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return len(words)


def byte_pairs(folder: Path) -> int:
    merges = ["o f</w>", "p h", "ph o", "t h", "th e</w>"]
    pieces = [
        *LETTERS,
        *(f"{letter}</w>" for letter in LETTERS),
        *(merge.replace(" ", "") for merge in merges),
    ]
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    return len(vocabulary)


def unigrams(folder: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [("▁" + word, -2.0) for word in WORDS if word not in NAMES]
    letters = [(letter, -5.0) for letter in "▁" + LETTERS]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *words, *letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return len(vocabulary)


HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
TOKENIZERS: dict[str, Callable[[Path], int]] = {"align": wordpieces, "clip": byte_pairs, "siglip": unigrams}
# As the published models' own files say.
PROCESSORS: dict[str, dict[str, Any]] = {
    "align": {
        "image_processor_type": "EfficientNetImageProcessor",
        "do_normalize": False,
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
        "include_top": False,
    },
    "clip": {"image_processor_type": "CLIPImageProcessor", **OPENAI},
    "siglip": {"image_processor_type": "SiglipImageProcessor", **HALF},
}


def save_language(name: str, folder: Path) -> Path:
    """What a user would have of the model: weights, tokenizer and image processor, all at their smallest."""
    import transformers

    kind, _, today = name.partition(" ")
    folder = folder / kind
    folder.mkdir()
    size = TOKENIZERS[kind](folder)
    # OpenAI's own files have 2 where the end-of-text token is another, for which transformers has a branch.
    text = TEXT | {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1 if today else 2}
    options: dict[str, Any] = {
        "align": {
            "vision_config": {"width_coefficient": 0.25, "depth_coefficient": 0.5},
            "projection_dim": 80,
        },
        "clip": {"vision_config": VIT, "projection_dim": 24},
        "siglip": {"vision_config": VIT},
    }[kind]
    if kind == "siglip":
        text |= {"hidden_size": VIT["hidden_size"], "max_position_embeddings": 48}
    config = {"align": "AlignConfig", "clip": "CLIPConfig", "siglip": "SiglipConfig"}[kind]
    torch.manual_seed(0)
    net = transformers.AutoModel.from_config(getattr(transformers, config)(text_config=text, **options))
    for weight in net.text_model.parameters():
        if weight.ndim == 2:  # large enough for words to matter, which they do not to a fresh ALIGN
            torch.nn.init.normal_(weight, std=0.3)
    shaken(net).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    return folder


def loaded(name: str, folder: Path) -> tuple[VisionLanguage, Any, Path]:
    """Ours and transformers' own."""
    from transformers import AutoModel

    folder = save_language(name, folder)
    return load_language(str(folder)), AutoModel.from_pretrained(folder).eval(), folder


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def pooled(out: Any) -> Tensor:
    return F.normalize(getattr(out, "pooler_output", out), dim=1)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_names_of_real_words_give_the_texts_own_embeddings(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    language, net, folder = loaded(name, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    padded = {"padding": "max_length", "max_length": 48} if name == "siglip" else {"padding": True}
    given = tokenizer([text.format(word) for word in NAMES for text in TEXTS], return_tensors="pt", **padded)
    mask = {} if name == "siglip" else {"attention_mask": given.attention_mask}
    words = torch.stack([language.word_embedding(word) for word in NAMES])
    found = language.encode_text(language.embed_words(TEXTS, words.shape[1]), words)
    expected = pooled(net.get_text_features(input_ids=given.input_ids, **mask))
    same(found, expected)
    assert found.shape == (len(NAMES) * len(TEXTS), language.width)
    assert torch.pdist(expected).min() > 1e-2
    assert words.shape == (len(NAMES), len(tokenizer.tokenize(NAMES[0])), language.token_width)


@pytest.mark.parametrize("name", ["align", "clip", "siglip"])
@torch.no_grad()
def test_image_embeddings_are_those_of_the_models_own_processor(name: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    language, net, folder = loaded(name, tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    process = AutoImageProcessor.from_pretrained(folder)
    pixels = process(picture, do_resize=False, do_center_crop=False, return_tensors="pt").pixel_values
    found = language.image_embed(torch.from_numpy(picture)[None] / 255)
    same(found, pooled(net.get_image_features(pixel_values=pixels)))
    assert found.shape == (1, language.width)


def normalised(language: VisionLanguage, pictures: Tensor) -> Tensor:
    """By another way than the model's."""
    given = PROCESSORS[language.kind] if language.kind != "align" else HALF
    mean, std = (torch.tensor(given[key])[:, None, None] for key in ("image_mean", "image_std"))
    return (pictures - mean) / std


@torch.no_grad()
def test_maps_of_align_are_its_stages(tmp_path: Path) -> None:
    from transformers import AlignVisionConfig

    assert stage_ends(AlignVisionConfig()) == [4, 11, 18, 28, 38, 51, 55]
    language, net, _ = loaded("align", tmp_path)
    pictures = torch.rand(2, 3, 97, 64)
    features, patches, image = language(pictures)
    out = net.vision_model(normalised(language, pictures), output_hidden_states=True)
    maps = [out.hidden_states[end] for end in (1, 2, 3, 7)]  # of 1, 1, 1, 2, 2, 2 and 1 blocks
    grid = maps[-1].shape[-2:]
    assert grid == (6, 4)
    same(features, torch.cat([F.interpolate(x, grid, mode="bilinear") for x in maps], 1))
    last = out.last_hidden_state
    assert last.shape[1:] == (language.width, 3, 2)
    same(patches, F.interpolate(last, grid, mode="bilinear"))
    same(image, F.normalize(last.mean((2, 3)), dim=1))
    for part, whole in zip((language.features, language.patch_embed), (features, patches), strict=True):
        assert torch.equal(part(pictures), whole)


def as_map(tokens: Tensor) -> Tensor:
    return tokens[:, -15:].mT.unflatten(2, (5, 3))


@pytest.mark.parametrize("name", ["clip", "siglip"])
@torch.no_grad()
def test_maps_of_transformers_are_their_blocks(name: str, tmp_path: Path) -> None:
    language, net, folder = loaded(name, tmp_path)
    pictures = torch.rand(2, 3, 40, 24)  # of another size than the model's, and not square
    features, patches, image = language(pictures)
    given = {"pixel_values": normalised(language, pictures), "interpolate_pos_encoding": True}
    same(image, pooled(net.get_image_features(**given)))
    tower = net.vision_model
    states = tower(**given, output_hidden_states=True).hidden_states
    same(features, torch.cat([as_map(state) for state in states[1:4]], 1))
    if name == "siglip":
        same(patches, as_map(tower.post_layernorm(states[4])))
        return
    same(
        load_language(str(folder), plain=True).patch_embed(pictures),
        as_map(net.visual_projection(tower.post_layernorm(states[4]))),
    )
    # What each token takes from the others goes by their values alone.
    block = tower.encoder.layers[-1]
    values = block.self_attn.v_proj(block.layer_norm1(states[3])).unflatten(2, (2, 16)).transpose(1, 2)
    taken = (values @ values.mT / 4).softmax(3) @ values
    tokens = states[3] + block.self_attn.out_proj(taken.transpose(1, 2).flatten(2))
    same(patches, as_map(net.visual_projection(tower.post_layernorm(tokens))))
    assert (patches - as_map(net.visual_projection(tower.post_layernorm(states[4])))).abs().max() > 0.1


@pytest.mark.parametrize("name", ["align", "clip", "siglip"])
def test_only_names_learn(name: str, tmp_path: Path) -> None:
    language, _, _ = loaded(name, tmp_path)
    before = {key: value.clone() for key, value in language.state_dict().items()}
    language.train()
    names = (torch.randn(3, 2, language.token_width) / 50).requires_grad_()
    prompt = language.embed_words(TEXTS[:2], 2)
    optimiser = torch.optim.AdamW([names, *language.parameters()], lr=0.01)
    image = language.image_embed(torch.rand(3, 3, 64, 64))
    losses = []
    for _ in range(8):
        texts = language.encode_text(prompt, names)
        loss = -(texts.unflatten(0, (3, 2)) * image[:, None]).sum(2).mean()
        optimiser.zero_grad()
        loss.backward()
        assert names.grad is not None
        assert (names.grad.abs().amax(2) > 0).all()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02
    assert all(weight.grad is None for weight in language.parameters())
    after = language.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["align", "clip", "siglip"])
def test_graph_agrees_and_has_no_text_tower(name: str, tmp_path: Path) -> None:
    language, _, _ = loaded(name, tmp_path)
    graph = export(language, 3, (64, 48), ["features", "patches", "image"])
    pictures = torch.rand(3, 3, 64, 48)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixels": pictures.numpy()})
    with torch.no_grad():
        for ours, expected in zip(found, language(pictures), strict=True):
            same(torch.from_numpy(ours), expected)
    kept = {tuple(part.dims) for part in onnx.load_from_string(graph).graph.initializer}
    assert tuple(language.word_table.weight.shape) not in kept


def test_what_each_kind_says_of_itself(tmp_path: Path) -> None:
    expected = {"align": (0, 80, 16, True), "clip": (1, 24, 16, True), "siglip": (1, 32, 32, False)}
    for name, (tier, width, token_width, in_text_space) in expected.items():
        folder = save_language(name, tmp_path)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
        language = load_language(str(folder))
        assert (language.kind, language.tier, language.licence) == (name, tier, "mit")
        assert (language.width, language.token_width) == (width, token_width)
        assert language.patches_in_text_space is in_text_space


def test_texts_and_sizes_that_cannot_be_read(tmp_path: Path) -> None:
    language, _, _ = loaded("siglip", tmp_path)
    for text in ("an object", "{} or {}"):
        with pytest.raises(UsageError, match=r"no single place for a name: write \{\} in it once"):
            language.embed_words([text], 4)
    assert language.embed_words(["{}"], 47).ids.shape == (1, 48)
    with pytest.raises(UsageError, match=r"comes to 49 tokens with a name of 48, .* reads 48: shorten"):
        language.embed_words(["{}"], 48)
    with pytest.raises(UsageError, match=r"patches of 8 pixels, .* 40×36: .* such as 40\."):
        language(torch.rand(1, 3, 36, 40))


def test_models_that_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not among the local files: .* `hf download no/such-model`"):
        load_language("no/such-model")
    with pytest.raises(UsageError, match=r"not among the local files: give the folder that it is in\.$"):
        load_language("/no/such-model")
    with pytest.raises(UsageError, match=r"of the kind 'resnet', .* the kinds align, clip, siglip"):
        load_language(save_hub_model("resnet", tmp_path))

    folder = save_language("clip", tmp_path)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if k != "text_projection.weight"}, weights, {"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks weights, such as text_projection\.weight"):
        load_language(str(folder))
    save_file({k: v for k, v in state.items() if k != "logit_scale"}, weights, {"format": "pt"})
    load_language(str(folder))
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    with pytest.raises(UsageError, match=r"tokenizer of .*clip knows no words: put its files"):
        load_language(str(folder))
    (folder / "vocab.json").write_text("{damaged")
    (folder / "merges.txt").touch()
    with pytest.raises(UsageError, match=r"tokenizer of .*clip can't be loaded; put its files"):
        load_language(str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"clip can't be loaded; .*preprocessor_config\.json"):
        load_language(str(folder))

    folder = save_language("siglip", tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    missing = "can't be loaded" if find_spec("sentencepiece") else "needs sentencepiece: install it"
    with pytest.raises(UsageError, match=missing):
        load_language(str(folder))
