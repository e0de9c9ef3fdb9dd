"""The 2015 Inception network: layout, pooling, resizing, and the distance between sets."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import interpolate
from torchmetrics.image.fid import FrechetInceptionDistance

from curation.errors import Refused
from training.metrics.inception import Inception, _Block, frechet_distance, load_inception


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    tensors = Inception().state_dict() | {
        "fc.weight": torch.zeros(1008, 2048),
        "fc.bias": torch.zeros(1008),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_the_layout_is_the_published_one():
    with torch.device("meta"):
        network = Inception()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_785_568
    assert len(shapes) == 564  # with the classifier's two, 566
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)
    widths = [block.width for block in network.children() if isinstance(block, _Block)]
    assert widths == [256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048]


def test_images_of_any_size_have_2048_features(file):
    network = load_inception(file)
    with torch.no_grad():
        features = network(torch.rand(2, 3, 40, 60))
    assert features.shape == (2, 2048)
    assert torch.isfinite(features).all()
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_pooling_does_not_count_the_border():
    block = _Block(1, ("avg",))
    block.width = 1
    assert torch.equal(block(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
    assert _Block(1, ("max/2",))(torch.ones(1, 1, 9, 9)).shape == (1, 1, 4, 4)


def test_a_fork_concatenates_two_steps():
    block = _Block(3, ("a:4:1x3|b:5:3x1", "c:2:3x3/1v max"))
    assert (block.width, sorted(name for name, _ in block.named_children())) == (
        11,
        ["a", "b", "c"],
    )
    assert _Block(3, ("a:4:1x3|b:5:3x1",))(torch.rand(1, 3, 6, 7)).shape == (1, 9, 6, 7)


def test_images_are_resized_as_in_clean_fid():
    values = torch.rand(1, 1, 400, 350) * 255
    ours = interpolate(values, (299, 299), mode="bicubic", antialias=True, align_corners=False)
    expected = np.asarray(
        Image.fromarray(values[0, 0].numpy()).resize((299, 299), Image.Resampling.BICUBIC)
    )
    assert np.abs(ours[0, 0].numpy() - expected).max() < 0.01


def test_another_file_is_refused(tmp_path):
    save_file(
        {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "some.safetensors"
    )
    with pytest.raises(Refused, match="not the 2015 Inception network"):
        load_inception(tmp_path / "some.safetensors")


def test_the_distance_equals_that_of_the_gaussians():
    torch.manual_seed(0)
    features = torch.randn(500, 6)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-4)
    shifted = features + torch.tensor([1.0, 2.0, 0, 0, 0, 0])
    assert frechet_distance(features, shifted) == pytest.approx(5, rel=1e-4)
    # Twice the features have twice the deviations, along the same axes, and twice the mean.
    expected = features.var(0).sum() + features.mean(0).square().sum()
    assert frechet_distance(features, features * 2) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("count", [30, 200])
def test_the_distance_equals_that_of_torchmetrics(count):
    class Identity(torch.nn.Module):
        num_features = 64

        def forward(self, features):
            return features

    torch.manual_seed(0)
    mix = torch.randn(64, 64) / 8
    truth, generated = torch.randn(count, 64) @ mix, torch.randn(count, 64) + 0.1
    library = FrechetInceptionDistance(feature=Identity())
    library.update(truth, real=True)
    library.update(generated, real=False)
    assert frechet_distance(truth, generated) == pytest.approx(library.compute().item(), rel=1e-4)
