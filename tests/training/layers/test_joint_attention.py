"""The laws of layers drawn together: alone, permuted, apart, fresh; in our transformer and in diffusers' UNets."""

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
KINDS = ["transformer", "own UNet", "SD 1.5", "SDXL"]
TEXT = 24  # numbers of a word


class Bare(StableDiffusion):
    """A UNet of Stable Diffusion alone."""

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
    if kind in {"transformer", "own UNet"}:
        denoiser = BuiltinDenoiser(
            replace(preset, denoiser="unet" if kind == "own UNet" else "transformer")
        )
        stir(denoiser.network)
    else:
        more = {"cross_attention_dim": TEXT} | (
            {"use_linear_projection": True} if kind == "SDXL" else {}
        )
        denoiser = Bare(make_unet((32, 64), **more))
    layered = new_layered_denoiser(preset, denoiser).eval()
    if not fresh:
        stir(layered.adapters)
    return layered


def given(layered, images=2, layers=2, seed=5):
    """Noisy latents, times and words for some pictures, rows "(p l)"."""
    rng = torch.Generator().manual_seed(seed)
    count = images * layers
    time = torch.randint(1000, (count,), generator=rng)
    if isinstance(layered.denoiser, BuiltinDenoiser):
        noisy = torch.randn(count, 16, 4, 4, generator=rng)
        conditions = layered.denoiser.encode(
            [f"layer {k} of a picture" + " more" * (k % 3) for k in range(count)]
        )
        return noisy, time, conditions
    noisy = torch.randn(count, 4, 8, 8, generator=rng)
    return noisy, time, Conditions(torch.randn(count, 7, TEXT, generator=rng))


def close(one, two, tolerance=3e-6):
    torch.testing.assert_close(one, two, rtol=0, atol=tolerance * max(1.0, float(two.abs().max())))


@pytest.fixture(autouse=True)
def _no_grad():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint_text_attention", [False, True])
def test_a_layer_alone_is_attended_to_as_ever(kind, joint_text_attention):
    """One layer of joint attention is plain attention; fresh adapters change nothing, and the base stays what it was."""
    layered = build(kind, joint_text_attention=joint_text_attention, fresh=True)
    noisy, time, conditions = given(layered)
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
    noisy, time, conditions = given(layered, 2, count)
    straight = layered.predict(noisy, time, conditions, roles)
    order = list(range(count))[::-1]
    rows = [image * count + index for image in range(2) for index in order]
    permuted = layered.predict(
        noisy[rows], time[rows], conditions.take(rows), [roles[index] for index in order]
    )
    close(permuted, straight[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_exchange_layers_are_drawn_one_at_a_time(kind):
    layered = build(kind)
    noisy, time, conditions = given(layered)
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
def test_pictures_of_a_batch_do_not_see_each_other(kind):
    layered = build(kind)
    noisy, time, conditions = given(layered)
    both = layered.predict(noisy, time, conditions, PAIR)
    for rows in (slice(0, 2), slice(2, 4)):
        close(layered.predict(noisy[rows], time[rows], conditions.take(rows), PAIR), both[rows])
    other = noisy.clone()
    other[2:] = 0
    close(layered.predict(other, time, conditions, PAIR)[:2], both[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_layers_see_only_themselves(kind):
    """With fresh adapters, attention over copies of one layer is attention over the layer."""
    layered = build(kind, fresh=True)
    noisy, time, conditions = given(layered, 2, 1)
    twice = [0, 0, 1, 1]
    together = layered.predict(noisy[twice], time[twice], conditions.take(twice), PAIR)
    close(together, layered.denoiser.predict(noisy, time, conditions)[twice])


@pytest.mark.parametrize("kind", KINDS)
def test_what_fresh_adapters_add_to_joint_attention_is_nothing(kind):
    layered = build(kind, fresh=True)
    noisy, time, conditions = given(layered)
    one, other = (
        layered.predict(noisy, time, conditions, PAIR),
        layered.predict(noisy, time, conditions, ("background",) * 2),
    )
    assert torch.equal(one, other)  # whichever they are
    close(
        layered.predict(noisy, time, conditions, PAIR, joined=False),
        layered.denoiser.predict(noisy, time, conditions),
    )


def test_texts_are_joined_only_where_it_is_wanted():
    told_apart, told_all = (
        build("SD 1.5", joint_text_attention=joined) for joined in (False, True)
    )
    *_, conditions = given(told_apart)
    other = replace(conditions, states_BLD=conditions.states_BLD.clone())
    other.states_BLD[1] += 1  # the background's words
    for layered, seen in ((told_apart, False), (told_all, True)):
        attn = layered.denoiser.unet.get_submodule(
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
        )
        layered.layout.set_layout(PAIR, 4, joined=True)
        states = torch.randn(4, 5, 64, generator=torch.Generator().manual_seed(1))
        one, two = (
            attn(states, encoder_hidden_states=text.states_BLD) for text in (conditions, other)
        )
        assert bool((one[0] - two[0]).abs().max() > 1e-6) is seen
        assert torch.equal(one[2:], two[2:])


def test_joint_attention_is_softmax_over_the_tokens_of_all_layers():
    """By hand, in the arithmetic of the paper: queries, keys and values of both layers one after another."""
    attn = make_unet((32, 64), cross_attention_dim=TEXT).get_submodule(
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    )
    states = torch.randn(4, 5, 64, generator=torch.Generator().manual_seed(1))
    stack = LayerLayout()
    stack.set_layout(PAIR, 4, joined=True)
    drawn = []
    for alone in (attn.processor, AttnProcessor()):  # whatever attends
        attn.set_processor(JointAttention(stack, alone, joint_text_attention=False))
        drawn.append(attn(states))
    query, key, value = (
        torch.cat(list(layer(states).view(2, 2, 5, attn.heads, -1).unbind(1)), dim=1).transpose(
            1, 2
        )
        for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    seen = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1) @ value
    expected = attn.to_out[0](seen.transpose(1, 2).reshape(2, 10, 64)).reshape(4, 5, 64)
    for found in drawn:
        close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_adapter_and_nothing_else(kind):
    layered = build(kind, modules="all")
    noisy, time, conditions = given(layered)
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
    for again in (False, True):
        layered = build("SDXL").train()
        if again:
            enable_checkpointing(layered.denoiser.unet)
        noisy, time, conditions = given(layered)
        with torch.enable_grad():
            layered.predict(noisy, time, conditions, PAIR).square().mean().backward()
        grads.append([parameter.grad for parameter in layered.adapters.parameters()])
    for one, two in zip(*grads, strict=True):
        close(one, two)


def test_what_cannot_be_is_refused(tmp_path):
    layered = build("transformer")
    noisy, time, conditions = given(layered, 3, 1)
    with pytest.raises(Refused, match="not a multiple of"):
        layered.predict(noisy, time, conditions, PAIR)
    with pytest.raises(Refused, match="no adapters of the role 'blended'"):
        layered.predict(noisy, time, conditions, ["foreground", "background", "blended"])


def test_a_base_that_is_a_lora_is_adapted_beside_it(tmp_path):
    """The layers' adapters stand beside PEFT's, and the names of the base's tensors stay what they are."""
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
