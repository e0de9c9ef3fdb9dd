"""Attention sharing on a diffusers UNet: equal to a reference, for one layer and for several."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm, linear, softmax

from curation.errors import Refused
from tests.training.pretrained import make_unet
from tests.training.released_files import (
    REAL_SD15,
    TINY_SD15,
    fill,
    real_unet,
    sharing_shapes,
    tiny_sd15,
    write,
)
from training.denoiser.attention_sharing import (
    attention_names,
    build_attention_sharing,
    install_attention_sharing,
)
from training.denoiser.shared_attention import SharedAttention
from training.external_weights import read_header
from training.interop.denoiser_weights import read_base
from training.interop.formats import recognize

RANK = 4


def reference_attention(
    unit: dict[str, Tensor], attn: Any, states: Tensor, context: Tensor, frames: int
) -> Tensor:
    """Compute attention sharing with plain tensor operations: first per layer, then per token."""

    def weight(part: str, layer: Any, frame: int) -> Tensor:
        merged: Tensor = (
            layer.weight
            + unit[f"{part}_lora.{frame}.up.weight"] @ unit[f"{part}_lora.{frame}.down.weight"]
        )
        return merged

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        width = query.shape[-1] // attn.heads
        heads = []
        for head in range(attn.heads):
            q, k, v = (x[..., head * width : (head + 1) * width] for x in (query, key, value))
            heads.append(softmax(q @ k.mT / width**0.5, dim=-1) @ v)
        return torch.cat(heads, dim=-1)

    mixed = states.clone()
    for row, (row_states, row_context) in enumerate(zip(states, context, strict=True)):
        frame = row % frames
        query, key, value = (
            linear(x, weight(part, layer, frame))
            for part, layer, x in (
                ("to_q", attn.to_q, row_states),
                ("to_k", attn.to_k, row_context),
                ("to_v", attn.to_v, row_context),
            )
        )
        out = attn.to_out[0]
        mixed[row] += linear(attend(query, key, value), weight("to_out", out, frame), out.bias)
    result = mixed.clone()
    for first in range(0, len(states), frames):
        for token in range(states.shape[1]):
            layers = mixed[first : first + frames, token]
            normalized = layer_norm(
                layers, layers.shape[-1:], unit["temporal_n.weight"], unit["temporal_n.bias"], 1e-6
            )
            hidden = linear(normalized, unit["temporal_i.weight"], unit["temporal_i.bias"])
            q, k, v = (
                linear(hidden, unit[f"temporal_{x}.weight"], unit[f"temporal_{x}.bias"])
                for x in "qkv"
            )
            result[first : first + frames, token] += linear(
                attend(q, k, v), unit["temporal_o.weight"], unit["temporal_o.bias"]
            )
    return result - states


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("index", [0, 1, 30])
def test_one_attention_equals_the_reference(frames: int, index: int) -> None:
    unet = tiny_sd15()
    name = attention_names(unet)[index]
    attn = unet.get_submodule(name)
    unit = SharedAttention(attn.to_q.in_features, attn.to_k.in_features, attn.heads, frames, RANK)
    state = fill(
        {n: tuple(v.shape) for n, v in unit.state_dict().items()}, seed=index, dtype=torch.float32
    )
    unit.load_state_dict(state)
    rng = torch.Generator().manual_seed(frames)
    states = torch.randn(2 * frames, 5, attn.to_q.in_features, generator=rng)
    context = (
        None
        if name.endswith("attn1")
        else torch.randn(2 * frames, 7, attn.to_k.in_features, generator=rng)
    )
    with torch.no_grad():
        ours = unit(attn, states, context)
        expected = reference_attention(
            state, attn, states, states if context is None else context, frames
        )
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_attentions_are_ordered_as_in_the_released_file() -> None:
    names = attention_names(tiny_sd15())
    assert len(names) == 32
    assert names[0] == "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    assert names[1] == "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    assert names[12] == "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
    assert names[29] == "up_blocks.3.attentions.2.transformer_blocks.0.attn2"
    assert names[30:] == [f"mid_block.attentions.0.transformer_blocks.0.attn{n}" for n in (1, 2)]


def test_a_file_for_one_layer_loads_and_runs_on_a_unet(tmp_path: Path) -> None:
    unet = tiny_sd15()
    path = write(tmp_path / "attn", sharing_shapes(unet, 1, RANK))
    header = read_header(path)
    tensors, metadata = read_base(header, recognize(header))
    assert metadata == {"kind": "sharing", "frames": "1", "rank": "4"}
    stored = load_file(path)
    assert all(torch.equal(value, stored[name]) for name, value in tensors.items())
    noisy, states = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 24)
    with torch.no_grad():
        before = unet(noisy, 500, encoder_hidden_states=states).sample
        install_attention_sharing(unet, tensors)
        after = unet(noisy, 500, encoder_hidden_states=states).sample
        alone = unet(noisy[:1], 500, encoder_hidden_states=states[:1]).sample
    assert after.shape == noisy.shape
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(
        after[:1], alone, rtol=0, atol=1e-5
    )  # images of one layer do not attend to each other


def test_layers_attend_to_the_layers_of_the_same_image_only() -> None:
    unet = tiny_sd15()
    install_attention_sharing(unet, fill(sharing_shapes(unet, 3, RANK), dtype=torch.float32))
    noisy, states = torch.randn(6, 4, 16, 16), torch.randn(6, 5, 24)
    changed = noisy.clone()
    changed[1] += 1
    with torch.no_grad():
        before, after = (
            unet(x, 500, encoder_hidden_states=states).sample for x in (noisy, changed)
        )
    differs = (before - after).flatten(1).abs().amax(1) > 1e-6
    assert differs.tolist() == [True, True, True, False, False, False]


def test_masked_tokens_are_ignored() -> None:
    unet = tiny_sd15()
    install_attention_sharing(unet, fill(sharing_shapes(unet, 1, RANK), dtype=torch.float32))
    noisy, states = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 24)
    mask = torch.tensor([[True, True, True, False, False]])
    with torch.no_grad():
        masked = unet(noisy, 500, encoder_hidden_states=states, encoder_attention_mask=mask).sample
        short = unet(noisy, 500, encoder_hidden_states=states[:, :3]).sample
    torch.testing.assert_close(masked, short, rtol=0, atol=1e-5)


def test_a_unet_of_another_size_is_refused() -> None:
    tensors = fill(sharing_shapes(tiny_sd15(), 1, RANK))
    with pytest.raises(Refused, match="32 attentions, the model"):
        install_attention_sharing(make_unet((16, 32)), tensors)
    wider = make_unet((32, 32, 32, 32), cross_attention_dim=24, **TINY_SD15)
    with pytest.raises(Refused, match="does not fit"):
        install_attention_sharing(wider, tensors)
    with pytest.raises(Refused, match="is not a tensor of attention sharing"):
        install_attention_sharing(tiny_sd15(), tensors | {"some.bias": torch.zeros(32)})


def test_one_layer_with_zero_weights_is_plain_attention() -> None:
    unet, other = tiny_sd15(), tiny_sd15()
    zeroed = {
        name: value * ("temporal" not in name and "up" not in name)
        for name, value in sharing_tensors(unet, 1).items()
    }
    install_attention_sharing(other, zeroed)
    noisy, states = random_inputs(2)
    with torch.no_grad():
        plain, ours = (
            model(noisy, 500, encoder_hidden_states=states).sample for model in (unet, other)
        )
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("controlled", [False, True])
def test_permuted_layers_give_permuted_outputs(controlled: bool) -> None:
    """Permuting the layers and their adapters permutes the output."""
    order = [2, 0, 1]
    tensors = sharing_tensors(tiny_sd15(), 3, controlled=controlled)
    permuted = {_permuted(name, order): value for name, value in tensors.items()}
    noisy, states = random_inputs(6)
    rows = [3 * image + frame for image in range(2) for frame in order]
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    given = [(tensors, noisy, states), (permuted, noisy[rows], states[rows])]
    expected, other = (predict(t, x, c, image if controlled else None) for t, x, c in given)
    torch.testing.assert_close(other, expected[rows], rtol=0, atol=1e-5)


def _permuted(name: str, order: list[int]) -> str:
    """Return the name of a layer's tensor after a permutation of the layers."""
    found = re.search(r"(_lora|control_convs)\.(\d)\.", name)
    if found is None:
        return name
    return name[: found.start(2)] + str(order.index(int(found[2]))) + name[found.end(2) :]


def test_a_control_layer_affects_its_own_image_only() -> None:
    tensors = sharing_tensors(tiny_sd15(), 2, controlled=True)
    noisy, states = random_inputs(4)
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    expected = predict(tensors, noisy, states, image)
    changed = image.clone()
    changed[1] *= -1
    differs = (predict(tensors, noisy, states, changed) - expected).flatten(1).abs().amax(1) > 1e-6
    assert differs.tolist() == [False, False, True, True]
    guided = predict(tensors, torch.cat([noisy, noisy]), torch.cat([states.flip(0), states]), image)
    torch.testing.assert_close(guided[4:], expected, rtol=0, atol=1e-5)
    alone = predict(tensors, noisy[:2], states[:2], image[:1])
    torch.testing.assert_close(alone, expected[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 72), (72, 40), (128, 136)])
def test_control_images_of_any_size_are_accepted(size: tuple[int, int]) -> None:
    noisy, states = torch.randn(2, 4, size[0] // 8, size[1] // 8), torch.randn(2, 5, 24)
    out = predict(
        sharing_tensors(tiny_sd15(), 2, controlled=True), noisy, states, torch.rand(1, 3, *size)
    )
    assert out.shape == noisy.shape and out.isfinite().all()


def test_a_missing_control_layer_is_refused() -> None:
    unet = tiny_sd15()
    sharing = install_attention_sharing(unet, sharing_tensors(unet, 2, controlled=True))
    noisy, states = random_inputs(2)
    for _ in range(2):
        with pytest.raises(Refused, match="needs a control layer, and none was given"):
            unet(noisy, 500, encoder_hidden_states=states)
        sharing.set_control(unet, torch.zeros(1, 3, 128, 128))
        unet(noisy, 500, encoder_hidden_states=states)
        sharing.set_control(unet, None)


@pytest.mark.parametrize(
    ("frames", "controlled", "count"),
    [(1, False, 175_098_496), (3, False, 277_138_048), (2, True, 281_425_568)],
)
def test_parameter_counts_equal_those_of_the_released_files(
    frames: int, controlled: bool, count: int
) -> None:
    """The files attn, joint, fg2bg and bg2fg at full size."""
    unet = real_unet(REAL_SD15)
    shapes = sharing_shapes(unet, frames, 256, controlled=controlled)
    sharing = build_attention_sharing(
        unet, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    modules = [*sharing.processors.values(), *([sharing.encoder] if sharing.encoder else [])]
    assert sum(p.numel() for module in modules for p in module.parameters()) == count
    assert sharing.frames == frames


def sharing_tensors(unet: Any, frames: int, *, controlled: bool = False) -> dict[str, Tensor]:
    return fill(sharing_shapes(unet, frames, RANK, controlled=controlled), dtype=torch.float32)


def random_inputs(count: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(count)
    return torch.randn(count, 4, 16, 16, generator=rng), torch.randn(count, 5, 24, generator=rng)


@torch.no_grad()
def predict(
    tensors: dict[str, Tensor], noisy: Tensor, states: Tensor, image: Tensor | None
) -> Tensor:
    unet = tiny_sd15()
    install_attention_sharing(unet, tensors).set_control(unet, image)
    out: Tensor = unet(noisy, 500, encoder_hidden_states=states).sample
    return out
