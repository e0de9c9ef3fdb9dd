"""Layer adapters as a stored part: names, conversion to PEFT and back, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file

from curation.errors import Refused
from tests.training.layers.conftest import MICRO, stir
from tests.training.pretrained import make_unet
from training.denoiser.builtin import BuiltinDenoiser
from training.layers.adapters import from_peft, modules_in, roles_in, to_peft
from training.layers.model import load_layered_denoiser, new_layered_denoiser
from training.safetensors_io import load_part, save_part


@pytest.fixture
def layered():
    torch.manual_seed(1)
    made = new_layered_denoiser(MICRO, BuiltinDenoiser(MICRO))
    stir(made.adapters)
    return made


def test_the_names_of_a_stored_part(layered):
    names = sorted(layered.finetuned_state_dict())
    assert names[0] == "background.network.layers.0.joined.lora_A.weight"
    assert len(names) == 2 * 2 * 2 * MICRO.dit_layers
    assert layered.finetuned_state_dict()[names[0]].shape == (MICRO.layer_rank, MICRO.dit_width)
    assert roles_in(layered.finetuned_state_dict()) == ["foreground", "background"]
    assert modules_in(layered.finetuned_state_dict())[0] == "network.layers.0.queries_keys_values"
    assert layered.metadata() == {
        "kind": "layers", "roles": "foreground,background", "join_text": "False", "rank": "32", "alpha": "32.0",
    }  # fmt: skip


def test_a_part_is_stored_and_loaded(layered, store):
    file = save_part(store, "layers", layered.finetuned_state_dict(), layered.metadata())
    tensors, metadata = load_part(store, file)
    torch.manual_seed(1)
    opened = load_layered_denoiser(BuiltinDenoiser(MICRO), tensors, metadata)
    assert opened.metadata() == layered.metadata()
    assert all(
        torch.equal(tensor, layered.finetuned_state_dict()[name])
        for name, tensor in opened.finetuned_state_dict().items()
    )
    half = load_layered_denoiser(BuiltinDenoiser(MICRO), tensors, metadata | {"alpha": "16"})
    assert half.adapters.scale == 0.5


def test_every_role_converts_to_peft_and_back(layered):
    tensors = layered.finetuned_state_dict()
    roles = [to_peft(tensors, role) for role in ("foreground", "background")]
    assert roles[0].keys() == roles[1].keys()
    assert not torch.equal(*(role["network.layers.0.joined.lora_B.weight"] for role in roles))
    back = from_peft(roles[0], "foreground") | from_peft(roles[1], "background")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    with pytest.raises(Refused, match="no adapters of the role 'blended'"):
        to_peft(tensors, "blended")
    with pytest.raises(Refused, match="not a tensor of a layer adapter"):
        from_peft({"unet.conv_in.weight": torch.zeros(1)}, "foreground")


def test_diffusers_loads_the_adapters_of_a_role(tmp_path):
    """The adapters of a role equal their PEFT file loaded by diffusers."""
    from tests.training.layers.test_joint_attention import build, make_inputs

    layered = build("SDXL")
    noisy, time, conditions = make_inputs(layered)
    with torch.no_grad():
        ours = layered.predict(noisy, time, conditions, ["background"])
        plain = layered.denoiser.predict(noisy, time, conditions)
    file = tmp_path / "background.safetensors"
    lora = {
        name.removeprefix("unet."): value
        for name, value in to_peft(layered.finetuned_state_dict(), "background").items()
    }
    save_file(lora, file)
    torch.manual_seed(3)
    unet = make_unet((32, 64), cross_attention_dim=24, use_linear_projection=True)
    unet.load_lora_adapter(str(tmp_path), weight_name=file.name, prefix=None)
    with torch.no_grad():
        expected = unet(
            noisy, time, encoder_hidden_states=conditions.states_BLD, return_dict=False
        )[0]
    assert (ours - plain).abs().max() > 1e-3
    torch.testing.assert_close(expected, ours, rtol=0, atol=1e-5)


def test_adapters_of_another_base_are_refused(layered):
    from dataclasses import replace

    tensors, metadata = layered.finetuned_state_dict(), layered.metadata()
    with pytest.raises(Refused, match="has no module 'network"):
        load_layered_denoiser(BuiltinDenoiser(replace(MICRO, dit_layers=1)), tensors, metadata)
    with pytest.raises(Refused, match="do not fit their base"):
        load_layered_denoiser(BuiltinDenoiser(replace(MICRO, dit_width=96)), tensors, metadata)
    with pytest.raises(Refused, match="do not fit their base"):
        load_layered_denoiser(
            BuiltinDenoiser(MICRO),
            {name: t for name, t in tensors.items() if "joined.lora_A" not in name},
            metadata,
        )
