import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blemish.errors import UsageError
from blemish.nets import load_backbone
from tests.nets.zoo import CONFIGURATIONS, save_hub_model


@pytest.mark.parametrize("kind", CONFIGURATIONS)
@torch.no_grad()
def test_taps_are_the_hidden_states_of_their_number(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = save_hub_model(kind, tmp_path)
    backbone = load_backbone(f"hub:{folder}")
    model = AutoModel.from_pretrained(folder)
    tower = getattr(model, "vision_model", model).eval()
    patch = getattr(backbone, "patch", None)
    x = torch.rand(2, 3, 5 * (patch or 32), 3 * (patch or 32))
    given = (x - torch.tensor(backbone.mean)[:, None, None]) / torch.tensor(backbone.std)[:, None, None]
    resized = (
        {"interpolate_pos_encoding": True} if patch and "dino" not in kind and kind != "registers" else {}
    )
    states = tower(given, output_hidden_states=True, **resized).hidden_states[1:]
    maps = backbone(x, tuple(tap.name for tap in backbone.taps))
    for found, state in zip(maps, states, strict=True):
        tokens = found.flatten(2).mT
        torch.testing.assert_close(
            tokens, state[:, -15:] if patch else state.flatten(2).mT, rtol=1e-4, atol=1e-4
        )


def test_names_and_default_taps(tmp_path: Path) -> None:
    expected = {
        "resnet": ("stage2", "stage3"),
        "convnext": ("stage2", "stage3"),
        "dinov2": ("layer2", "layer3"),
        "clip": ("layer2", "layer3"),
    }
    for kind, taps in expected.items():
        assert load_backbone(f"hub:{save_hub_model(kind, tmp_path)}").default_taps == taps


def test_normalisation_and_licence_are_the_models_own(tmp_path: Path) -> None:
    folder = Path(save_hub_model("resnet", tmp_path))
    plain = load_backbone(f"hub:{folder}")
    assert plain.mean == (0.485, 0.456, 0.406)
    assert plain.licence == "see the model's page"

    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- vision\n---\n# A model\n")
    own = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    given = load_backbone(f"hub:{folder}")
    assert given.licence == "apache-2.0"
    assert given.mean == pytest.approx((0.5, 0.4, 0.3))
    assert given.std == pytest.approx((0.2, 0.2, 0.1))

    align = {"do_normalize": False, "rescale_factor": 2 / 255, "rescale_offset": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(align))
    scaled = load_backbone(f"hub:{folder}")
    assert scaled.mean == pytest.approx((0.5, 0.5, 0.5))
    assert scaled.std == pytest.approx((0.5, 0.5, 0.5))

    (folder / "preprocessor_config.json").write_text(json.dumps(own | {"include_top": True}))
    twice = load_backbone(f"hub:{folder}")
    assert twice.mean == pytest.approx((0.5, 0.4, 0.3))
    assert twice.std == pytest.approx((0.04, 0.04, 0.01))


def test_size_that_patches_do_not_divide(tmp_path: Path) -> None:
    backbone = load_backbone(f"hub:{save_hub_model('dinov2', tmp_path)}")
    with pytest.raises(
        UsageError, match=r"patches of 14 pixels, which do not divide 256×256: .* such as 252\."
    ):
        backbone(torch.rand(1, 3, 256, 256))


def test_models_that_cannot_serve(tmp_path: Path) -> None:
    from transformers import SwinConfig, SwinModel

    with pytest.raises(UsageError, match=r"hub:no/such-model can't be loaded"):
        load_backbone("hub:no/such-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty can't be loaded"):
        load_backbone(f"hub:{tmp_path / 'empty'}")

    swin = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], image_size=64, window_size=2)
    SwinModel(swin).save_pretrained(tmp_path / "swin")
    with pytest.raises(UsageError, match="neither convolutional nor a plain vision transformer"):
        load_backbone(f"hub:{tmp_path / 'swin'}")

    file = Path(save_hub_model("vit", tmp_path)) / "model.safetensors"
    state = load_file(file)
    pooler = [key for key in state if key.startswith("pooler.")]
    save_file({key: value for key, value in state.items() if key not in pooler}, file, {"format": "pt"})
    assert pooler
    load_backbone(f"hub:{file.parent}")
    missing = next(key for key in state if "layer.0" in key or "layers.0" in key)
    save_file({key: value for key, value in state.items() if key != missing}, file, {"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks weights, such as \S*layer"):
        load_backbone(f"hub:{file.parent}")
    file.write_bytes(b"damaged")
    with pytest.raises(UsageError, match="vit can't be loaded"):
        load_backbone(f"hub:{file.parent}")
