"""Properties of joint attention, in the built-in transformer and in diffusers' UNets."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from curation.errors import Refused
from tests.training.layers.conftest import stir
from tests.training.pretrained import make_unet, write_sdxl
from training.denoiser.builtin import BuiltinDenoiser
from training.denoiser.denoiser import Conditions
from training.denoiser.stable_diffusion import StableDiffusion
from training.layers.attention import JointAttention, LayerLayout
from training.layers.model import new_layered_denoiser
from training.presets.presets import PRESETS

PAIR = ("foreground", "background")
KINDS = ["transformer", "built-in UNet", "SD 1.5", "SDXL"]
TEXT = 24  # width of a text token


class UNetOnly(StableDiffusion):
    """Stable Diffusion with a UNet, and without a text encoder."""

    def __init__(self, unet):
        torch.nn.Module.__init__(self)
        self.unet, self.kind, self.adapter = unet, "weights", {}
        self.preset, self.family = PRESETS["sd15"], type("Family", (), {"name": "sd15"})()

    def train(self, mode=True):
        return torch.nn.Module.train(self, mode)


def build(kind, *, joint_text_attention=False, modules="attention", fresh=False):
    """Return a small denoiser with layers, and text embeddings for it."""
    torch.manual_seed(3)
    preset = replace(
        PRESETS["micro"],
        layer_rank=4,
        joint_text_attention=joint_text_attention,
        layer_modules=modules,
    )
    if kind in {"transformer", "built-in UNet"}:
        denoiser = BuiltinDenoiser(
            replace(preset, denoiser="unet" if kind == "built-in UNet" else "transformer")
        )
        stir(denoiser.network)
    else:
        options = {"cross_attention_dim": TEXT} | (
            {"use_linear_projection": True} if kind == "SDXL" else {}
        )
        denoiser = UNetOnly(make_unet((32, 64), **options))
    layered = new_layered_denoiser(preset, denoiser).eval()
    if not fresh:
        stir(layered.adapters)
    return layered


def make_inputs(layered, images=2, layers=2, seed=5):
    """Return noisy latents, timesteps and conditions of images, with B = images * layers rows."""
    rng = torch.Generator().manual_seed(seed)
    count = images * layers
    time = torch.randint(1000, (count,), generator=rng)
    if isinstance(layered.denoiser, BuiltinDenoiser):
        noisy = torch.randn(count, 16, 4, 4, generator=rng)
        conditions = layered.denoiser.encode(
            [f"layer {k} of an image" + " more" * (k % 3) for k in range(count)]
        )
        return noisy, time, conditions
    noisy = torch.randn(count, 4, 8, 8, generator=rng)
    return noisy, time, Conditions(torch.randn(count, 7, TEXT, generator=rng))


def close(found, expected, tolerance=3e-6):
    torch.testing.assert_close(
        found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max()))
    )


@pytest.fixture(autouse=True)
def _no_grad():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint_text_attention", [False, True])
def test_joint_attention_of_one_layer_is_plain_attention(kind, joint_text_attention):
    """Joint attention of one layer is plain attention; the base alone stays unchanged."""
    layered = build(kind, joint_text_attention=joint_text_attention, fresh=True)
    noisy, time, conditions = make_inputs(layered)
    plain = layered.denoiser.predict(noisy, time, conditions)
    close(layered.predict(noisy, time, conditions, ["foreground"]), plain, 1e-6)
    assert torch.equal(layered.denoiser.predict(noisy, time, conditions), plain)
    stir(layered.adapters)
    assert (layered.predict(noisy, time, conditions, ["foreground"]) - plain).abs().max() > 1e-3
    assert torch.equal(layered.denoiser.predict(noisy, time, conditions), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint_text_attention", [False, True])
@pytest.mark.parametrize("roles", [PAIR, ("foreground", "background", "foreground")])
def test_permuted_layers_give_permuted_outputs(kind, joint_text_attention, roles):
    layered = build(kind, joint_text_attention=joint_text_attention)
    count = len(roles)
    noisy, time, conditions = make_inputs(layered, 2, count)
    expected = layered.predict(noisy, time, conditions, roles)
    order = list(range(count))[::-1]
    rows = [image * count + index for image in range(2) for index in order]
    permuted = layered.predict(
        noisy[rows], time[rows], conditions.take(rows), [roles[index] for index in order]
    )
    close(permuted, expected[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_without_joint_attention_layers_are_predicted_separately(kind):
    layered = build(kind)
    noisy, time, conditions = make_inputs(layered)
    apart = layered.predict(noisy, time, conditions, PAIR, joined=False)
    for index, role in enumerate(PAIR):
        close(
            apart[index::2],
            layered.predict(
                noisy[index::2], time[index::2], conditions.take(slice(index, None, 2)), [role]
            ),
        )
    joined = layered.predict(noisy, time, conditions, PAIR)
    assert (joined - apart).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_do_not_attend_to_each_other(kind):
    layered = build(kind)
    noisy, time, conditions = make_inputs(layered)
    both = layered.predict(noisy, time, conditions, PAIR)
    for rows in (slice(0, 2), slice(2, 4)):
        close(layered.predict(noisy[rows], time[rows], conditions.take(rows), PAIR), both[rows])
    other = noisy.clone()
    other[2:] = 0
    close(layered.predict(other, time, conditions, PAIR)[:2], both[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_over_copies_of_a_layer_is_attention_over_the_layer(kind):
    """New adapters are zero, so all copies have the output of the base."""
    layered = build(kind, fresh=True)
    noisy, time, conditions = make_inputs(layered, 2, 1)
    copies = [0, 0, 1, 1]
    together = layered.predict(noisy[copies], time[copies], conditions.take(copies), PAIR)
    close(together, layered.denoiser.predict(noisy, time, conditions)[copies])


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing(kind):
    layered = build(kind, fresh=True)
    noisy, time, conditions = make_inputs(layered)
    outputs, swapped = (
        layered.predict(noisy, time, conditions, PAIR),
        layered.predict(noisy, time, conditions, ("background",) * 2),
    )
    assert torch.equal(outputs, swapped)  # the roles do not matter
    close(
        layered.predict(noisy, time, conditions, PAIR, joined=False),
        layered.denoiser.predict(noisy, time, conditions),
    )


def test_texts_are_joined_only_with_joint_text_attention():
    separate_texts, joint_texts = (
        build("SD 1.5", joint_text_attention=joined) for joined in (False, True)
    )
    *_, conditions = make_inputs(separate_texts)
    other = replace(conditions, states_BLD=conditions.states_BLD.clone())
    other.states_BLD[1] += 1  # the text of the background
    for layered, affected in ((separate_texts, False), (joint_texts, True)):
        attn = layered.denoiser.unet.get_submodule(
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
        )
        layered.layout.set_layout(PAIR, 4, joined=True)
        states = torch.randn(4, 5, 64, generator=torch.Generator().manual_seed(1))
        before, after = (
            attn(states, encoder_hidden_states=text.states_BLD) for text in (conditions, other)
        )
        assert bool((before[0] - after[0]).abs().max() > 1e-6) is affected
        assert torch.equal(before[2:], after[2:])


def test_joint_attention_is_softmax_over_the_tokens_of_all_layers():
    """Compare with softmax attention over the concatenated tokens of both layers."""
    attn = make_unet((32, 64), cross_attention_dim=TEXT).get_submodule(
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    )
    states = torch.randn(4, 5, 64, generator=torch.Generator().manual_seed(1))
    stack = LayerLayout()
    stack.set_layout(PAIR, 4, joined=True)
    outputs = []
    for processor in (attn.processor, AttnProcessor()):
        attn.set_processor(JointAttention(stack, processor, joint_text_attention=False))
        outputs.append(attn(states))
    query, key, value = (
        torch.cat(list(layer(states).view(2, 2, 5, attn.heads, -1).unbind(1)), dim=1).transpose(
            1, 2
        )
        for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    seen = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1) @ value
    expected = attn.to_out[0](seen.transpose(1, 2).reshape(2, 10, 64)).reshape(4, 5, 64)
    for found in outputs:
        close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_adapter_and_nothing_else(kind):
    layered = build(kind, modules="all")
    noisy, time, conditions = make_inputs(layered)
    with torch.enable_grad():
        layered.predict(noisy, time, conditions, PAIR).square().mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for parameter in layered.adapters.parameters()
    )
    assert all(parameter.grad is None for parameter in layered.denoiser.parameters())


def test_checkpointed_blocks_give_the_same_gradients():
    from training.engine.distributed import enable_checkpointing

    grads = []
    for checkpointing in (False, True):
        layered = build("SDXL").train()
        if checkpointing:
            enable_checkpointing(layered.denoiser.unet)
        noisy, time, conditions = make_inputs(layered)
        with torch.enable_grad():
            layered.predict(noisy, time, conditions, PAIR).square().mean().backward()
        grads.append([parameter.grad for parameter in layered.adapters.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        close(plain, checkpointed)


def test_wrong_batches_and_roles_are_refused(tmp_path):
    layered = build("transformer")
    noisy, time, conditions = make_inputs(layered, 3, 1)
    with pytest.raises(Refused, match="not a multiple of"):
        layered.predict(noisy, time, conditions, PAIR)
    with pytest.raises(Refused, match="no adapters of the role 'blended'"):
        layered.predict(noisy, time, conditions, ["foreground", "background", "blended"])


def test_a_lora_base_is_adapted_without_changing_its_lora(tmp_path):
    """Layer adapters are added to PEFT's, and the names of the base's tensors do not change."""
    folder = write_sdxl(tmp_path / "model")
    preset = replace(
        PRESETS["sdxl"],
        model=str(folder),
        image_size=64,
        adapter_rank=4,
        layer_rank=4,
        precision="fp32",
    )
    denoiser = StableDiffusion(preset)
    names = set(denoiser.finetuned_state_dict())
    layered = new_layered_denoiser(preset, denoiser)
    assert set(denoiser.finetuned_state_dict()) == names
    modules = {
        name.partition(".")[2].rpartition(".lora_")[0] for name in layered.finetuned_state_dict()
    }
    assert modules == {name.rpartition(".lora_")[0] for name in names}
    conditions = denoiser.encode(["a", "b"])
    noisy = torch.randn(2, 4, 8, 8)
    plain = denoiser.predict(noisy, torch.tensor([5, 5]), conditions)
    close(layered.predict(noisy, torch.tensor([5, 5]), conditions, PAIR, joined=False), plain)
    stir(layered.adapters)
    assert (
        layered.predict(noisy, torch.tensor([5, 5]), conditions, PAIR, joined=False) - plain
    ).abs().max() > 1e-3
