"""`layerloop generate`: files with provenance, and no file is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from curation import __version__
from curation.cli.main import app
from curation.db.engine import Database
from curation.errors import LayerloopError, NotFound, Refused
from curation.settings import Settings
from curation.synthetic.shapes import SUBJECTS
from tests.support.factories import make_checkpoint

PROMPT = next(iter(SUBJECTS))


@pytest.fixture
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Commands run in this test's instance with a generator of shapes."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAYERLOOP_GENERATOR", "tests.support.shape_generator:open_painter")
    return settings


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, ("generate", *arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: str) -> LayerloopError:
    with pytest.raises(LayerloopError) as refused:
        CliRunner().invoke(app, ("generate", *arguments), catch_exceptions=False)
    return refused.value


def test_an_image_is_generated_with_its_provenance(
    here: Settings, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as tx:
        checkpoint = make_checkpoint(tx)
    out = tmp_path / "drawn" / "bottle.png"
    response = call(
        PROMPT,
        "--out",
        str(out),
        "--seed",
        "3",
        "--steps",
        "9",
        "--negative",
        "ugly",
        "--checkpoint",
        checkpoint,
    )
    assert response == f"{out}\n"
    with Image.open(out) as image:
        assert (image.mode, image.size) == ("RGBA", (64, 64))
    metadata = json.loads(call("--show", str(out), "--json"))
    assert metadata == {
        "prompt": PROMPT,
        "negative": "ugly",
        "seed": "3",
        "steps": "9",
        "model": "painter",
        "checkpoint": checkpoint,
        "preset": metadata["preset"],
        "version": __version__,
    }
    assert f"prompt: {PROMPT}" in call("--show", str(out))

    before = out.read_bytes()
    refused = refusal(PROMPT, "--out", str(out), "--checkpoint", checkpoint)
    assert "exists already" in refused.message
    assert "--force" in str(refused.hint)
    assert out.read_bytes() == before
    call(PROMPT, "--out", str(out), "--seed", "5", "--force", "--checkpoint", checkpoint)
    assert out.read_bytes() != before


def test_several_images_are_named_by_their_seeds(
    here: Settings, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as tx:
        make_checkpoint(tx)
    promote(database)
    drawn = json.loads(
        call(PROMPT, "--out", str(tmp_path / "a.webp"), "--count", "6", "--seed", "10", "--json")
    )
    assert [one["seed"] for one in drawn] == [str(seed) for seed in range(10, 16)]
    assert [Path(one["path"]).name for one in drawn] == [f"a-{seed}.webp" for seed in range(10, 16)]
    images = [np.asarray(Image.open(one["path"])) for one in drawn]
    assert len({image.tobytes() for image in images}) == 6
    assert (
        call(PROMPT, "--out", str(tmp_path / "b.png"), "--format", "webp", "--seed", "10")
        .strip()
        .endswith("b.webp")
    )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.webp")), images[0])


def promote(database: Database) -> None:
    from curation.checkpoints import registry

    with database.transaction() as tx:
        [row] = registry.list_checkpoints(tx)
        registry.promote_checkpoint(tx, row["id"], "test")


def test_the_image_to_start_from_becomes_a_stored_layer(
    here: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.transaction() as tx:
        make_checkpoint(tx)
    promote(database)
    begun = np.zeros((20, 30, 4), np.uint8)
    begun[5:15, 5:15] = (10, 20, 30, 128)
    Image.fromarray(begun, "RGBA").save(tmp_path / "in.png")
    seen = []
    from curation.images.codec import decode_layer
    from tests.support import shape_generator as painter

    def noting(checkpoint, store):
        generator = painter.Painter()
        plain = generator.generate

        def generate(requests, options):
            seen.append((options, decode_layer(store.get(options.image))))
            return plain(requests)

        generator.generate = generate
        return generator

    monkeypatch.setattr(painter, "open_painter", noting)
    call(
        PROMPT,
        "--image",
        str(tmp_path / "in.png"),
        "--strength",
        "0.4",
        "--upscale",
        "1.5",
        "--out",
        str(tmp_path / "o.png"),
    )
    [(options, stored)] = seen
    assert (options.strength, options.upscale) == (0.4, 1.5)
    assert np.array_equal(stored, begun)


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ((), Refused, "there is no prompt"),
        ((PROMPT, "--size", "big"), Refused, "invalid size"),
        ((PROMPT, "--size", "4x4"), Refused, "invalid size"),
        ((PROMPT, "--size", "3:0"), Refused, "invalid size"),
        ((PROMPT, "--out", "a.jpg"), Refused, "unsupported image format"),
        ((PROMPT, "--image", "nowhere.png"), NotFound, "there is no file"),
        ((PROMPT, "--image", "nowhere.png", "--size", "64x64"), Refused, "determines the size"),
        ((PROMPT,), NotFound, "no checkpoint is promoted yet"),
        (("--show", "nowhere.png"), NotFound, "there is no file"),
    ],
)
def test_impossible_requests_are_errors_with_a_hint(
    here: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    kind: type,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = refusal(*arguments)
    assert isinstance(refused, kind)
    assert says in refused.message
