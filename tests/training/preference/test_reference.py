"""The reference: a copy of a wholly trained denoiser, or the first adapter in the same network."""

from dataclasses import replace

import pytest
import torch

from curation.domain import TrainingRequest
from tests.training.pretrained import write_sd15, write_sdxl
from training.denoiser.factory import load_denoiser, new_denoiser
from training.preference.reference import freeze_reference
from training.presets.presets import PRESETS
from training.safetensors_io import load_part
from training.train import train

WRITERS = {"sd15": write_sd15, "sdxl": write_sdxl}
LORA = {
    "image_size": "64", "precision": "fp32", "adapter_rank": "4", "threads": "1", "draw_steps": "1",
    "encoder_widths": "8,8,8,8", "decoder_widths": "8,8,8,8", "decoder_attention": "0", "decoder_groups": "4",
    "decoder_layers": "1", "decoder_views": "1", "discriminator_weight": "0", "transparency_batch": "4",
    "base_batch": "4", "preference_batch": "4", "warmup_images": "8", "checkpoint_every_images": "8",
    "sample_every_images": "24", "base_lr": "1e-3", "preference_lr": "1e-3", "transparency_lr": "1e-3",
    "draw_batch": "4",
}  # fmt: skip


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "LoRA"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_reference_predicts_as_before_and_gets_no_gradient(tmp_path, family, rank, prediction):
    torch.manual_seed(0)
    preset = replace(
        PRESETS[family],
        model=str(WRITERS[family](tmp_path / "model")),
        image_size=64,
        adapter_rank=rank,
        precision="fp32",
        prediction=prediction,
    )
    start = new_denoiser(preset)
    tensors = {
        name: t + 0.01 * torch.randn_like(t) for name, t in start.finetuned_state_dict().items()
    }
    denoiser = load_denoiser(preset, tensors, start.metadata()).train().requires_grad_(True)
    reference = freeze_reference(preset, denoiser)
    noisy, time = torch.randn(2, 4, 8, 8), torch.tensor([3, 800])
    conditions = denoiser.encode(["a glass bottle", ""])
    with torch.no_grad():
        before = denoiser.predict(noisy, time, conditions)
        for parameter in denoiser.trainable_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    with reference.applied() as frozen:
        again = frozen.predict(noisy, time, conditions)
        assert not again.requires_grad
    now = denoiser.predict(noisy, time, conditions)
    torch.testing.assert_close(again, before)
    assert not torch.allclose(now, before)
    now.square().sum().backward()
    assert all(parameter.grad is not None for parameter in denoiser.trainable_parameters())
    if rank:
        assert reference.own_modules == ()
    else:
        (copied,) = reference.own_modules
        assert all(parameter.grad is None for parameter in copied.parameters())
        # Text encoders take their memory once.
        assert copied.texts is denoiser.texts
        assert copied.unet is not denoiser.unet


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["kto", "dpo"])
def test_an_adapter_of_sdxl_learns_from_decisions_in_buckets_and_resumes(
    store, decided, tmp_path, recipe
):
    torch.set_num_threads(1)
    changes = {**LORA, "model": str(write_sdxl(tmp_path / "model")), "buckets": "true"}
    request = TrainingRequest("whole", "sdxl", decided, None, None, 1, 8, changes)
    parent = train(request, store, tmp_path / "runs" / "parent", lambda _: None)

    def stop(progress):
        if progress.stage == recipe and progress.done >= 12:
            raise KeyboardInterrupt

    child = replace(request, recipe=recipe, parent=parent, images=24)
    with pytest.raises(KeyboardInterrupt):
        train(child, store, tmp_path / "runs" / "child", stop)
    resumed = train(child, store, tmp_path / "runs" / "child", lambda _: None)
    alone = train(child, store, tmp_path / "runs" / "alone", lambda _: None)
    assert resumed.files == alone.files
    first, second = (load_part(store, made.files["base"]) for made in (parent, resumed))
    assert first[1]["kind"] == second[1]["kind"] == "adapter"
    assert any(not torch.equal(first[0][name], second[0][name]) for name in first[0])
