"""Caches of latents and texts: never stale, complete, shared by processes, with broken images."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch

from curation.domain import LayerRole, Split
from curation.errors import Corrupt
from training.data.buckets import BucketConfig, make_bucket_table
from training.data.dataset import LayerDataset
from training.data.splits import open_split
from training.denoiser.cache import LatentCache, TextEmbeddingCache
from training.denoiser.cache_identity import fingerprint, latent_identity, text_identity
from training.denoiser.denoiser import Conditions
from training.presets.presets import find_preset
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.codec import adjusted_posterior
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray, pad_colors

MICRO = find_preset("micro")


@pytest.fixture
def images(store, snapshot) -> LayerDataset:
    return open_split(store, snapshot, Split.train, MICRO.image_size, in_memory=False)


@pytest.fixture
def networks(images):
    """Return a fitted autoencoder, and an encoder whose offsets are not zero."""
    torch.manual_seed(0)
    rgba = images.load_batch(range(len(images)))
    encoder = Transparency(MICRO).eval().requires_grad_(False).encoder
    torch.nn.init.normal_(encoder.blocks[-1].weight, std=0.1)
    return fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:])), encoder


class CountingEncoder:
    """An image encoder that counts its images."""

    def __init__(self, *networks) -> None:
        self.encode, self.images = partial(adjusted_posterior, *networks), 0

    def __call__(self, alpha, padded):
        self.images += len(alpha)
        return self.encode(alpha, padded)


def ignore_progress(progress) -> None:
    """Ignore progress."""


@pytest.fixture
def filled(tmp_path, networks):
    """Fill a cache from images, and return how many were computed."""

    def fill(images, preset=MICRO, folder=tmp_path / "cache", **more) -> tuple[LatentCache, int]:
        cache = LatentCache.open(folder, latent_identity(preset, *networks, **more))
        counted = CountingEncoder(*networks)
        cache.fill(images, counted, ignore_progress, batch_size=5)
        return cache, counted.images

    return fill


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_entries_equal_the_outputs_of_the_networks(
    filled, images, networks, precision, in_memory, tmp_path
):
    folder = None if in_memory else tmp_path / "cache"
    cache, computed = filled(images, replace(MICRO, cache_precision=precision), folder)
    assert computed == len(images)
    indices = [7, 0, 7, 23]
    rgba = images.load_batch(indices)
    mean, std = adjusted_posterior(*networks, rgba[:, 3:], pad_colors(rgba))
    found = cache.get(indices)
    tolerance = (
        {"atol": 1e-5, "rtol": 1e-5} if precision == "fp32" else {"atol": 2e-3, "rtol": 1e-3}
    )
    torch.testing.assert_close(found[0], mean, **tolerance)
    torch.testing.assert_close(found[1], std, **tolerance)
    assert found[0].dtype == found[1].dtype == torch.float32


def test_a_filled_cache_computes_nothing(filled, images):
    first, _ = filled(images)
    second, computed = filled(images)
    assert computed == 0
    assert all(
        torch.equal(*pair) for pair in zip(first.get([3, 1]), second.get([3, 1]), strict=True)
    )


def test_a_changed_image_recomputes_one_entry(filled, store, snapshot, images):
    filled(images)
    changed = list(images.samples)
    data = store.get(changed[4].layers[LayerRole.foreground])
    other = store.put(data + b"\0")  # the same image in other bytes
    changed[4] = replace(changed[4], layers={LayerRole.foreground: other})
    cache, computed = filled(LayerDataset(store, changed, MICRO.image_size, in_memory=False))
    assert computed == 1
    torch.testing.assert_close(cache.get([4])[0], filled(images)[0].get([4])[0])


def test_the_same_image_in_two_samples_is_computed_once(filled, store, images):
    twice = [images.samples[0], *images.samples]
    _, computed = filled(LayerDataset(store, twice, MICRO.image_size, in_memory=False))
    assert computed == len(images)


def test_any_other_change_makes_another_folder(networks, tmp_path, images, filled, monkeypatch):
    autoencoder, encoder = networks
    names = {latent_name(tmp_path, MICRO, autoencoder, encoder)}
    names.add(latent_name(tmp_path, replace(MICRO, cache_precision="fp16"), autoencoder, encoder))
    names.add(latent_name(tmp_path, MICRO, autoencoder, encoder, compute="bf16"))
    encoder.offset_scale *= 2
    names.add(latent_name(tmp_path, MICRO, autoencoder, encoder))
    encoder.tile = 16
    names.add(latent_name(tmp_path, MICRO, autoencoder, encoder))
    with torch.no_grad():
        encoder.blocks[0].bias[0] += 1e-6
    names.add(latent_name(tmp_path, MICRO, autoencoder, encoder))
    autoencoder.basis[0, 0] += 1e-6
    names.add(latent_name(tmp_path, MICRO, autoencoder, encoder))
    monkeypatch.setattr(
        "training.denoiser.cache_identity.letterbox", lambda rgba, size: rgba[: size[0], : size[1]]
    )
    names.add(latent_name(tmp_path, MICRO, autoencoder, encoder))
    assert len(names) == 8
    _, computed = filled(images)
    assert computed == len(images)


def latent_name(folder, preset, *networks, **more) -> str:
    return LatentCache.open(folder, latent_identity(preset, *networks, **more)).folder.name


def test_the_folder_describes_its_identity_and_can_be_deleted(filled, images):
    cache, _ = filled(images)
    identity = json.loads((cache.folder / "identity.json").read_text())
    assert identity["precision"] == "fp32"
    assert len(identity["backbone"]) == 64
    for file in cache.folder.iterdir():
        file.unlink()
    cache.folder.rmdir()
    assert filled(images)[1] == len(images)


def test_every_size_has_its_own_latents(filled, store, freeze_sized):
    snapshot = freeze_sized([(40, 20), (20, 40), (30, 30)] * 4)
    buckets = BucketConfig(make_bucket_table(32, 8, 2.0), min_images=2)
    sorted_ = open_split(store, snapshot, Split.train, 32, in_memory=False, buckets=buckets)
    square = open_split(store, snapshot, Split.train, 32, in_memory=False)
    cache, computed = filled(sorted_)
    assert computed == 12
    for place in range(12):
        height, width = sorted_.shapes[place]
        assert cache.get([place])[0].shape[2:] == (height // 8, width // 8)
    assert filled(square)[1] == 8  # only square images are cached


def test_a_broken_image_is_recorded_and_left_out(tmp_path, filled, store, images, networks):
    broken, gone = 3, 9
    samples = breaking(store, images, broken, b"not an image")
    seen = []
    damaged = LayerDataset(store, samples * 5, MICRO.image_size, in_memory=False)
    cache = LatentCache.open(tmp_path / "cache", latent_identity(MICRO, *networks))
    cache.fill(damaged, CountingEncoder(*networks), seen.append)
    assert list(damaged.unreadable) == [samples[broken].id]
    assert seen[-1].metrics == {"set_aside": 1.0}
    (line,) = (cache.folder / "aside.jsonl").read_text().splitlines()
    assert json.loads(line)["sample"] == samples[broken].id
    assert "cannot be decoded" in json.loads(line)["wrong"]
    assert damaged.readable_indices([2, broken, 4]) == [2, broken + 1, 4]
    same = set(range(broken, len(damaged), len(samples)))  # other samples of that image
    assert not same & set(damaged.readable_indices(sorted(same)))
    assert cache.get(damaged.readable_indices([2, broken, 4]))[0].shape[0] == 3
    mended = LayerDataset(store, list(images.samples), MICRO.image_size, in_memory=False)
    cache.fill(mended, CountingEncoder(*networks), ignore_progress)
    assert not (cache.folder / "aside.jsonl").exists()
    assert gone not in mended.unreadable


def test_too_many_broken_images_raise_corrupt(store, images, networks, tmp_path):
    samples = breaking(store, images, 3, b"one")
    damaged = LayerDataset(store, samples, MICRO.image_size, in_memory=False)
    damaged.samples = breaking(store, damaged, 8, b"two")
    cache = LatentCache.open(None, latent_identity(MICRO, *networks))
    with pytest.raises(Corrupt, match="2 of 24 images cannot be read"):
        cache.fill(damaged, CountingEncoder(*networks), ignore_progress)


def breaking(store, images: LayerDataset, place: int, data: bytes) -> list:
    """Return the samples, one of whose images is broken."""
    samples = list(images.samples)
    samples[place] = replace(samples[place], layers={LayerRole.foreground: store.put(data)})
    return samples


FILLER = """
import sys
from pathlib import Path
import training.data.tensor_cache
from curation.domain import Split
from curation.object_store import FolderStore
from training.denoiser.cache import LatentCache
from training.data.splits import open_split
training.data.tensor_cache.ENTRIES_PER_SHARD = 3
objects, snapshot, folder = sys.argv[1:]
images = open_split(FolderStore(Path(objects)), snapshot, Split.train, 32, in_memory=False)
cache = LatentCache.open(Path(folder), {"precision": "fp32"})
cache.fill(images, lambda alpha, padded: (padded[:, :, ::8, ::8] + 1, alpha[:, :, ::8, ::8]), lambda progress: None)
print(float(cache.get(range(len(images)))[0].sum()))
"""


@pytest.mark.slow
def test_several_processes_fill_one_cache(store, snapshot, tmp_path, images):
    command = [sys.executable, "-c", FILLER, str(store.folder), snapshot, str(tmp_path / "cache")]
    fillers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    sums = [float(filler.communicate(timeout=120)[0]) for filler in fillers]
    rgba = images.load_batch(range(len(images)))
    expected = float((pad_colors(rgba)[:, :, ::8, ::8] + 1).sum())
    assert sums == [pytest.approx(expected)] * 2


class CountingTextEncoder:
    """A text encoder that counts its texts: states of their letters, and a pooled sum."""

    def __init__(self, *, mask: bool = False, pooled: bool = True) -> None:
        self.mask, self.pooled, self.texts = mask, pooled, 0

    def __call__(self, texts: Sequence[str]) -> Conditions:
        self.texts += len(texts)
        states = torch.stack(
            [
                torch.tensor([float(ord(c)) for c in text.ljust(8)[:8]])[:, None] * torch.ones(3)
                for text in texts
            ]
        )
        mask = (
            torch.tensor([[place < len(text) for place in range(8)] for text in texts])
            if self.mask
            else None
        )
        return Conditions(
            states, mask, states.sum(1) if self.pooled else None, torch.ones(len(texts), 6)
        )


@pytest.mark.parametrize(("mask", "pooled"), [(False, True), (True, False)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_texts_are_encoded_once(tmp_path, mask, pooled, in_memory):
    texts = ["a red square", "", "a blue circle", "a red square"]
    encode = CountingTextEncoder(mask=mask, pooled=pooled)
    folder = None if in_memory else tmp_path
    cache = TextEmbeddingCache.open(folder, {"precision": "fp16"})
    seen = []
    cache.fill(texts, encode, seen.append, batch_size=2)
    assert (encode.texts, seen[-1].done, seen[-1].total) == (3, 3, 3)
    again = cache if in_memory else TextEmbeddingCache.open(folder, {"precision": "fp16"})
    again.fill([*texts, "a new one"], encode, ignore_progress)
    assert encode.texts == 4
    found, expected = again.get(texts[::-1]), encode(texts[::-1])
    assert torch.equal(found.states_BLD, expected.states_BLD)
    assert found.states_BLD.dtype == torch.float32
    assert (found.mask_BL is None) == (not mask)
    assert not mask or torch.equal(found.mask_BL, expected.mask_BL)
    assert (found.pooled_BP is None) == (not pooled)
    assert found.sizes_B6 is None
    with pytest.raises(KeyError):
        again.get(["a text that nobody encoded"])


def test_text_identity_depends_on_encoder_and_tokenizer():
    class Tokens:
        def __init__(self, length: int, shift: int) -> None:
            self.model_max_length, self.shift = length, shift

        def __call__(self, text):
            return type(
                "Encoding",
                (),
                {"input_ids": [ord(c) + self.shift for c in text][: self.model_max_length]},
            )

    encoder = torch.nn.Linear(2, 2)
    identities = [
        text_identity(MICRO, encoder, [Tokens(*tokens)]) for tokens in ((77, 0), (77, 1), (76, 0))
    ]
    with torch.no_grad():
        encoder.weight[0, 0] += 1
    identities += [
        text_identity(MICRO, encoder, [Tokens(77, 0)]),
        text_identity(MICRO, encoder, [Tokens(77, 0)], family="sdxl"),
    ]
    assert len({json.dumps(identity) for identity in identities}) == 5
    assert text_identity(MICRO, encoder, [Tokens(77, 0)]) == identities[3]


def test_a_fingerprint_depends_on_values_names_dtypes_and_class():
    plain = torch.nn.Linear(2, 2)
    same = torch.nn.Linear(2, 2)
    same.load_state_dict(plain.state_dict())
    assert fingerprint(plain) == fingerprint(same)
    assert fingerprint(plain) != fingerprint(torch.nn.Sequential(same))
    assert fingerprint(plain) != fingerprint(same.to(torch.float16))
