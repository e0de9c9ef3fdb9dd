"""LPIPS: its state dict, its formula on random weights, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, max_pool2d

from curation.errors import NotFound, Refused
from training.metrics.perceptual import LPIPS, load_lpips


def write_lpips(tower, tmp_path):
    torch.manual_seed(0)
    tensors = LPIPS(tower).state_dict()
    for name, tensor in tensors.items():
        if name.startswith("lin"):
            tensor.abs_()
    # The original state dict has each head twice, and the constants of the scaling layer.
    extra = {
        f"lins.{n}.model.1.weight": tensors[f"lin{n}.model.1.weight"].clone() for n in range(5)
    }
    extra |= {
        "scaling_layer.shift": torch.zeros(1, 3, 1, 1),
        "scaling_layer.scale": torch.ones(1, 3, 1, 1),
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in (tensors | extra).items()},
        tmp_path / "lpips.safetensors",
    )
    return tmp_path / "lpips.safetensors", tensors


def test_the_towers_have_the_published_layout():
    alex, vgg = (
        {name: tuple(tensor.shape) for name, tensor in LPIPS(t).state_dict().items()}
        for t in ("alex", "vgg")
    )
    assert alex["net.slice1.0.weight"] == (64, 3, 11, 11)
    assert alex["net.slice5.10.weight"] == (256, 256, 3, 3)
    assert [name for name in vgg if name.endswith("weight") and name.startswith("net.slice5")] == [
        f"net.slice5.{index}.weight" for index in (24, 26, 28)
    ]
    assert [alex[f"lin{n}.model.1.weight"][1] for n in range(5)] == [64, 192, 384, 256, 256]
    assert [vgg[f"lin{n}.model.1.weight"][1] for n in range(5)] == [64, 128, 256, 512, 512]
    assert sum(tensor.numel() for tensor in LPIPS("alex").state_dict().values()) == 2_470_848


def test_the_distance_of_alexnet_equals_the_formula(tmp_path):
    file, weights = write_lpips("alex", tmp_path)
    network = load_lpips(file)
    first, second = torch.rand(2, 3, 64, 48), torch.rand(2, 3, 64, 48)
    shift, scale = (
        torch.tensor(v).view(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    )
    features = [(image * 2 - 1 - shift) / scale for image in (first, second)]
    expected = torch.zeros(2)
    layers = [
        ("1.0", 4, 2, False),
        ("2.3", 1, 2, True),
        ("3.6", 1, 1, True),
        ("4.8", 1, 1, False),
        ("5.10", 1, 1, False),
    ]
    for level, (name, stride, padding, pool) in enumerate(layers):
        kernel, bias = weights[f"net.slice{name}.weight"], weights[f"net.slice{name}.bias"]
        features = [max_pool2d(feature, 3, 2) if pool else feature for feature in features]
        features = [conv2d(feature, kernel, bias, stride, padding).relu() for feature in features]
        first_unit, second_unit = (
            feature / (feature.norm(dim=1, keepdim=True) + 1e-10) for feature in features
        )
        head = weights[f"lin{level}.model.1.weight"].view(1, -1, 1, 1)
        expected += ((first_unit - second_unit) ** 2 * head).sum(1).mean((1, 2))
    torch.testing.assert_close(network(first, second), expected)
    assert (expected > 0).all()


@pytest.mark.parametrize("tower", ["alex", "vgg"])
def test_equal_images_have_distance_0(tower, tmp_path):
    file, _ = write_lpips(tower, tmp_path)
    network = load_lpips(file)
    image = torch.rand(2, 3, 32, 32)
    assert network(image, image).tolist() == [0, 0]
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_other_files_are_refused(tmp_path):
    with pytest.raises(NotFound, match="no file"):
        load_lpips(tmp_path / "nothing.safetensors")
    pickled = tmp_path / "lpips.pth"
    torch.save({"lin0": torch.zeros(1)}, pickled)
    with pytest.raises(Refused, match="not safetensors"):
        load_lpips(pickled)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(Refused, match="not LPIPS") as error:
        load_lpips(other)
    assert "docs/guides/training.md" in error.value.hint
    file, weights = write_lpips("alex", tmp_path)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items() if "lin3" not in name}, file
    )
    with pytest.raises(Refused, match="lin3"):
        load_lpips(file)
