"""Starting noise: replayed from the seed it is bitwise what the samplers start from, in any batch."""

from __future__ import annotations

import pytest
import torch

from curation.domain import GenerationRequest, Prompt, content_id
from curation.ports import DEFAULT_OPTIONS
from tests.support.random_checkpoint import random_checkpoint
from tests.training.pipelines.test_worker_generator import make_checkpoint
from tests.training.pretrained import write_sdxl
from training.draw_batches import starting_noise
from training.generate import load_generator

ROUND = [
    GenerationRequest(Prompt(f"a shape {number % 7}"), int(content_id("seed", number).hex[:8], 16))
    for number in range(96)
]
PAIRS = [
    GenerationRequest(Prompt("a star on sand", "a star", "sand"), request.seed)
    for request in ROUND[:10]
]


def shape_of(generator, *, pair=False):
    """The shape that the recorded settings state."""
    return tuple(map(int, generator.environment(DEFAULT_OPTIONS, pair=pair)["noise"].split("x")))


def first_inputs(network_call, record):
    """Wrap a function, and record the first argument of the first call of every batch."""

    def called(sample, *args, **kwargs):
        record(sample)
        return network_call(sample, *args, **kwargs)

    return called


def started_from(generator, requests, batches):
    """Generate requests in batches of these sizes; returns the latents that sampling started from."""
    found, fresh = [], [True]

    def record(sample):
        if fresh[0]:
            found.append(sample.clone())
        fresh[0] = False

    denoiser = getattr(generator, "layered", None) or generator.denoiser
    denoiser.predict = first_inputs(denoiser.predict, record)
    latents, start = [], 0
    for size in batches:
        fresh[0] = True
        generator.generate(requests[start : start + size])
        # The sampler predicts twice, with and without the prompt, and fills batches up.
        rows = found[-1].chunk(2)[0]
        latents += list(rows.unflatten(0, (generator.parts.preset.draw_batch, -1))[:size])
        start += size
    assert start == len(requests)
    return latents


@pytest.mark.slow
@pytest.mark.parametrize("batches", [[16] * 6, [1, 15, 7, 9, 16, 16, 16, 16]], ids=["full", "odd"])
def test_the_noise_of_a_round_of_the_preset_tiny_is_replayed(store, batches):
    generator = load_generator(random_checkpoint(store, "tiny", draw_steps="1"), store)
    shape = shape_of(generator)
    assert shape == (32, 8, 8)
    for request, latent in zip(ROUND, started_from(generator, ROUND, batches), strict=True):
        assert torch.equal(latent[0], starting_noise(request.seed, shape))


def test_the_noise_of_pairs_covers_all_layers(store):
    generator = load_generator(random_checkpoint(store, pairs=True, draw_steps="1"), store)
    shape = shape_of(generator, pair=True)
    assert shape[0] == 2
    size = generator.parts.preset.draw_batch
    batches = [1, *[size] * (9 // size), 9 % size]
    batches = [batch for batch in batches if batch]
    for request, latent in zip(PAIRS, started_from(generator, PAIRS, batches), strict=True):
        assert torch.equal(latent, starting_noise(request.seed, shape))


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["32", "5"])
def test_the_noise_of_a_round_of_sdxl_is_replayed(store, tmp_path, batch):
    model = str(write_sdxl(tmp_path / "sdxl"))
    checkpoint = make_checkpoint(store, model, draw_batch=batch, draw_steps="1")
    generator = load_generator(checkpoint, store)
    shape, inputs = shape_of(generator), []
    assert shape == (4, 8, 8)
    unet = generator.pipe.pipeline.unet
    unet.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    generator.generate(ROUND)
    rows = torch.cat([sample.chunk(2)[0] for sample in inputs])
    assert len(rows) == -(-96 // int(batch)) * int(batch)
    # A scheduler scales the noise by the first noise level before the UNet sees it.
    scheduler = generator.pipe.pipeline.scheduler
    scheduler.set_timesteps(1)
    for request, row in zip(ROUND, rows[:96], strict=True):
        noise = starting_noise(request.seed, shape, unet.dtype) * scheduler.init_noise_sigma
        assert torch.equal(row, scheduler.scale_model_input(noise, scheduler.timesteps[0]))


def test_a_generator_goes_on_after_the_noise():
    generator = torch.Generator().manual_seed(5)
    first = starting_noise(generator, (4, 8, 8))
    assert torch.equal(first, starting_noise(5, (4, 8, 8)))
    assert not torch.equal(first, torch.randn(4, 8, 8, generator=generator))
    assert starting_noise(-1, (2, 3), torch.bfloat16).dtype == torch.bfloat16
