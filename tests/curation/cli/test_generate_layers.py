"""`layerloop generate` for several layers: pairs, a user's photograph or cutout, and scenes in folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from curation.cli.main import app
from curation.db.engine import Database
from curation.errors import LayerloopError, NotFound, Refused
from curation.images.codec import encode_layer
from curation.images.decoding import decode_image
from curation.images.pairs import composite
from curation.images.provenance import read_image, read_provenance
from curation.settings import Settings
from curation.synthetic.shapes import SUBJECTS
from tests.support.factories import image, make_checkpoint
from tests.support.image_files import coded, make_png

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "generate_help.txt"

SCENE = """
whole = "a fox and an owl by a lamp"
[background]
prompt = "a snowy forest"
[[layers]]
prompt = "a fox"
[[layers]]
name = "lamp"
file = "cutout.png"
opacity = 0.5
[[layers]]
prompt = "an owl"
seed = 9
"""


@pytest.fixture
def here(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """Run commands in this test's instance with a generator of pairs; return a folder with images."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAYERLOOP_GENERATOR", "tests.support.pair_generator:open_pair_painter")
    with database.transaction() as tx:
        make_checkpoint(tx)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Image.fromarray(image(4, 90, 50)[..., :3]).save("photo.jpg")
    Image.fromarray(image(5, 20, 30)).save("cutout.png")
    (folder / "scene.toml").write_text(SCENE)
    return folder


def call(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ("generate", *arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def refusal(*arguments: str) -> LayerloopError:
    with pytest.raises(LayerloopError) as refused:
        CliRunner().invoke(app, ("generate", *arguments), catch_exceptions=False)
    return refused.value


def read(name: str) -> np.ndarray:
    return read_image(Path(name))


def test_a_pair_is_three_files_that_fit(here: Path) -> None:
    response = call(
        "a fox", "--background", "a forest", "--out", "new/fox.webp", "--seed", "3", "--steps", "7"
    )
    assert response == [
        "new/fox-foreground.webp",
        "new/fox-background.webp",
        "new/fox-blended.webp",
    ]
    foreground, background, blended = map(read, response)
    assert np.array_equal(composite(foreground, background), blended)
    metadata = read_provenance(here / response[0])
    assert metadata["prompt"] == "a fox, a forest"
    assert (metadata["foreground"], metadata["background"], metadata["role"]) == (
        "a fox",
        "a forest",
        "foreground",
    )
    assert (metadata["seed"], metadata["steps"], metadata["size"]) == ("3", "7", "64x64")
    assert (
        "exists already"
        in refusal("a fox", "--background", "a forest", "--out", "new/fox.webp").message
    )
    call(
        "a fox",
        "--background",
        "a forest",
        "--out",
        "new/fox.webp",
        "--force",
        "--whole",
        "a fox at home",
    )
    assert read_provenance(here / response[0])["prompt"] == "a fox at home"


def test_several_pairs_are_named_by_their_seeds(here: Path) -> None:
    drawn = json.loads(
        "".join(call("a fox", "--background", "a forest", "--count", "3", "--seed", "5", "--json"))
    )
    assert [one["seed"] for one in drawn] == ["5", "6", "7"]
    assert [one["files"]["blended"] for one in drawn] == [
        f"layer-{seed}-blended.png" for seed in (5, 6, 7)
    ]
    assert len({read(one["files"]["blended"]).tobytes() for one in drawn}) == 3


@pytest.mark.parametrize(("size", "shape"), [((), (64, 64, 4)), (("--size", "48x32"), (32, 48, 4))])
def test_layers_are_generated_over_a_photograph(
    here: Path, size: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    foreground, background, blended = call("a fox", "--on", "photo.jpg", "--out", "fox.png", *size)
    assert read(background).shape == read(foreground).shape == shape
    assert (read(background)[..., 3] == 255).all()
    assert np.array_equal(composite(read(foreground), read(background)), read(blended))
    with pytest.raises(NotFound):
        read_provenance(here / background)  # a photograph was not drawn, and does not say so
    assert b"/trainedAlgorithmicMedia" in (here / foreground).read_bytes()
    assert b"/compositeWithTrainedAlgorithmicMedia" in (here / blended).read_bytes()


def test_layers_are_generated_behind_a_users_cutout(here: Path) -> None:
    foreground, background, blended = call(
        "--under", "cutout.png", "--background", "a beach", "--out", "b.png"
    )
    own = image(5, 20, 30)
    assert np.array_equal(read(foreground)[17:47, 22:42], np.where(own[..., 3:] > 0, own, 0))
    assert read(foreground)[..., 3].sum() == own[..., 3].sum()
    assert read_provenance(here / background)["background"] == "a beach"
    assert np.array_equal(composite(read(foreground), read(background)), read(blended))


def test_a_scene_is_drawn_into_a_folder(here: Path) -> None:
    response = call("--layers", "scene.toml", "--format", "psd,ora,tiff", "--steps", "4")
    assert response[-3:] == ["scene/scene.psd", "scene/scene.ora", "scene/scene.tiff"]
    assert all((here / path).exists() for path in response)
    drawn = json.loads((here / "scene" / "manifest.json").read_text())
    layers = [layer for step in drawn["steps"] for layer in step["layers"]]
    assert [layer["name"] for layer in layers] == ["background", "a fox", "lamp", "an owl"]
    assert [layer["seed"] for layer in layers] == [0, 0, None, 9]
    assert [layer["opacity"] for layer in layers] == [255, 255, 128, 255]
    assert drawn["made"]["steps"] == "4"
    before = {path.name: path.read_bytes() for path in (here / "scene").iterdir()}
    again = json.loads(
        "".join(call("--layers", "scene.toml", "--format", "ora", "--steps", "4", "--json"))
    )
    assert again["folder"] == "scene"
    assert again["layered"] == ["scene/scene.ora"]
    assert again["steps"] == drawn["steps"]
    assert {path.name: path.read_bytes() for path in (here / "scene").iterdir()} == before
    assert (
        "another scene from step 1 on" in refusal("--layers", "scene.toml", "--steps", "5").message
    )
    call("--layers", "scene.toml", "--steps", "5", "--force")
    assert not list((here / "scene").glob("scene.*"))  # they would show what is no longer there


def test_real_layers_blend_as_they_were_blended(here: Path, shared: Path) -> None:
    for pair in sorted((shared / "layer_pairs").iterdir())[:4]:
        (here / "real.toml").write_text(
            f'[background]\nfile = "{pair}/background.webp"\n[[layers]]\nfile = "{pair}/foreground.webp"\n'
        )
        blended = read(call("--layers", "real.toml", "--out", pair.name)[-1]).astype(int)
        truth = read(str(pair / "composite.webp"))
        assert blended.shape == truth.shape
        assert np.abs(blended - truth).mean() < 1


def test_size_and_seed_of_the_command_overrule_the_scene(here: Path) -> None:
    drawn = json.loads(
        "".join(
            call(
                "--layers",
                "scene.toml",
                "--out",
                "large",
                "--size",
                "96x80",
                "--seed",
                "30",
                "--json",
            )
        )
    )
    assert drawn["size"] == [96, 80]
    assert [layer["seed"] for step in drawn["steps"] for layer in step["layers"]] == [
        30,
        30,
        None,
        9,
    ]


def test_a_dry_run_says_the_steps_and_draws_nothing(here: Path) -> None:
    rows = json.loads("".join(call("--layers", "scene.toml", "--dry-run", "--json")))
    assert [(row["step"], row["layer"], row["how"]) for row in rows] == [
        (1, "background", "generated together"),
        (1, "a fox", "generated together"),
        (2, "lamp", "placed unchanged"),
        (3, "an owl", "generated to fit the layers below"),
    ]
    assert rows[3]["whole"] == "a fox and an owl by a lamp"
    assert "generated to fit the layers below" in "\n".join(
        call("--layers", "scene.toml", "--dry-run")
    )
    assert not (here / "scene").exists()


def test_a_scene_of_files_alone_needs_no_checkpoint(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "files.toml").write_text(
        '[background]\nfile = "photo.jpg"\n[[layers]]\nfile = "cutout.png"\n'
    )
    monkeypatch.setenv("LAYERLOOP_DATABASE", "postgresql://nobody@127.0.0.1:1/none")
    response = call("--layers", "files.toml")
    assert read(response[-1]).shape == (50, 90, 4)


def test_a_checkpoint_without_pairs_is_an_error(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "LAYERLOOP_GENERATOR", "tests.support.shape_generator:open_foreground_painter"
    )
    refused = refusal(
        next(iter(SUBJECTS)), "--background", "white", "--whole", next(iter(SUBJECTS))
    )
    assert "generates single layers only" in refused.message
    assert "trained on pairs" in refused.hint


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (("a fox", "--whole", "all"), Refused, "a pair needs a background"),
        (("--background", "a forest"), Refused, "there is no prompt"),
        (("--on", "photo.jpg"), Refused, "there is no prompt"),
        (("--under", "cutout.png"), Refused, "no prompt for the background"),
        (
            ("a fox", "--under", "cutout.png", "--on", "photo.jpg"),
            Refused,
            "leave no layer to generate",
        ),
        (("a fox", "--on", "nowhere.jpg"), NotFound, "there is no file nowhere.jpg"),
        (("a fox", "--on", "scene.toml"), Refused, "not an image"),
        (("a fox", "--background", "b", "--upscale", "2"), Refused, "nor --upscale"),
        (
            ("a fox", "--background", "b", "--image", "cutout.png"),
            Refused,
            "support neither --image",
        ),
        (
            ("a fox", "--background", "b", "--format", "psd"),
            Refused,
            "unsupported image format '.psd'",
        ),
        (("a fox", "--dry-run"), Refused, "only scenes have a dry run"),
        (("a fox", "--layers", "scene.toml"), Refused, "scene file defines"),
        (("--layers", "scene.toml", "--count", "2"), Refused, "scene file defines"),
        (("--layers", "scene.toml", "--format", "png"), Refused, "unknown layered format 'png'"),
        (("--layers", "nowhere.toml"), NotFound, "there is no file nowhere.toml"),
        (("--layers", "scene.toml", "--checkpoint", "beef"), NotFound, "beef"),
        (("--layers", "scene.toml", "--out", "photo.jpg"), Refused, "is not a scene"),
    ],
)
def test_impossible_requests_are_errors_with_a_hint(
    here: Path, arguments: tuple[str, ...], kind: type, says: str
) -> None:
    refused = refusal(*arguments)
    assert isinstance(refused, kind), refused
    assert says in refused.message
    assert (
        refused.hint or "cannot be used" in refused.message or "there is no file" in refused.message
    )


def test_the_help_equals_its_golden_file() -> None:
    command = typer.main.get_command(app).commands["generate"]
    options = [f"{' '.join(one.opts)}: {getattr(one, 'help', '') or ''}" for one in command.params]
    assert "\n".join([command.help, "", *options, ""]) == GOLDEN.read_text()


def test_users_images_become_srgb_in_every_option(here: Path, settings: Settings) -> None:
    """A PNG with 16 bits and a cICP chunk, both of which Pillow would drop."""
    samples = np.full((60, 40, 4), (200 * 257, 120 * 257, 60 * 257, 65_535))
    samples[:20, :, 3] = 0
    data = make_png(samples, 6, 16, [coded(12, 13)])
    (here / "p3.png").write_bytes(data)
    (here / "p3.toml").write_text(
        'size = "40x60"\n[background]\ncolour = "white"\n[[layers]]\nname = "p3"\nfile = "p3.png"\n'
    )
    wanted = (213, 115, 42, 255)
    call("a fox", "--on", "p3.png", "--out", "on.png")
    assert np.abs(read("on-background.png")[50, 20].astype(int) - wanted).max() <= 3
    call("--under", "p3.png", "--background", "a beach", "--out", "under.png")
    assert np.abs(read("under-foreground.png")[50, 20].astype(int) - wanted).max() <= 3
    call("--layers", "p3.toml", "--out", "scene")
    assert np.abs(read("scene/1-p3.png")[50, 20].astype(int) - wanted).max() <= 3
    call("a fox", "--image", "p3.png", "--out", "begun.png")
    begun = hashlib.sha256(encode_layer(decode_image(data).rgba)).hexdigest()
    assert any(begun in str(path).replace("/", "") for path in settings.home.rglob("*"))
