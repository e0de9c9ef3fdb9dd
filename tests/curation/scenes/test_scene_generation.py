"""A scene in a folder: the requests and files of each step, and resuming after an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.domain import Checkpoint, LayerRole
from curation.errors import Corrupt, NotFound, Refused
from curation.images.codec import decode_layer
from curation.images.pairs import composite
from curation.images.provenance import read_image, read_provenance
from curation.object_store import FolderStore, compute_sha256
from curation.ports import GenerationOptions, Layers
from curation.scenes import manifest as accounts
from curation.scenes.blending import apply_opacity, new_canvas, place_on_canvas
from curation.scenes.drawing import generate_scene
from curation.scenes.layer_source import SceneGenerator
from curation.scenes.manifest import SceneManifest, read_manifest
from curation.scenes.scene import Background, FitMode, Scene, SceneLayer
from tests.support.factories import image
from tests.support.pair_generator import PairPainter

CHECKPOINT = Checkpoint({}, "layers", "tiny", None, None, 0, "test")
LAMP, PHOTO = Path("lamp.png"), Path("photo.jpg")
PICTURES = {LAMP: image(5, 20, 30), PHOTO: image(6, 90, 50)}
THREE = Scene(
    Background("a forest"),
    (
        SceneLayer("fox", "a fox", seed=3),
        SceneLayer("lamp", "a lamp", LAMP, opacity=128, position=(-5, 50)),
        SceneLayer("owl", "an owl", seed=4, opacity=200),
    ),
    "a fox and an owl by a lamp",
)


def hand_of(
    store: FolderStore,
    options: GenerationOptions = GenerationOptions(),
    painter: type[PairPainter] = PairPainter,
) -> SceneGenerator:
    return SceneGenerator(CHECKPOINT, lambda: painter(store), store, options)


def draw(
    scene: Scene, hand: SceneGenerator | None, folder: Path, force: bool = False
) -> SceneManifest:
    return generate_scene(scene, PICTURES, hand, folder, lambda _: None, force)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_step_is_generated_and_stored(tmp_path: Path, store: FolderStore) -> None:
    hand, out = (
        hand_of(store, GenerationOptions(steps=9, negative="ugly")),
        tmp_path / "new" / "scene",
    )
    drawn = draw(THREE, hand, out)
    (first, plain), (second, given) = hand.generator.asked
    assert (first.prompt.foreground, first.prompt.background, first.seed) == (
        "a fox",
        "a forest",
        3,
    )
    assert (second.prompt.text, second.seed) == ("a fox and an owl by a lamp", 4)
    assert not plain.given
    [(role, below)] = given.given.items()
    assert role is LayerRole.background
    assert np.array_equal(decode_layer(store.get(below)), read_image(out / "blended-2.png"))
    assert read_provenance(out / "3-owl.png")["given background"] == below

    assert drawn.complete
    assert [layer.name for layer in drawn.layers] == ["background", "fox", "lamp", "owl"]
    assert [layer.source for layer in drawn.layers] == ["drawn", "drawn", "file", "drawn"]
    assert sorted(files(out)) == sorted([*drawn.names, "manifest.json"])
    assert drawn.names == [
        "0-background.png", "1-fox.png", "2-lamp.png", "3-owl.png", "blended-1.png", "blended-2.png", "blended-3.png",
    ]  # fmt: skip
    assert np.array_equal(read_image(out / "2-lamp.png"), PICTURES[LAMP])
    so_far = new_canvas((64, 64))
    for step in drawn.steps:
        for layer in step.layers:
            assert layer.sha256 == compute_sha256(out / layer.file)
            rgba = read_image(out / layer.file)
            assert rgba.shape == (layer.size[1], layer.size[0], 4)
            so_far = composite(
                place_on_canvas(apply_opacity(rgba, layer.opacity), layer.offset, (64, 64)), so_far
            )
        assert np.array_equal(read_image(out / step.blended), so_far)
        assert step.sha256 == compute_sha256(out / step.blended)
    assert read_manifest(out) == drawn


def test_generated_files_have_provenance_and_users_files_have_none(
    tmp_path: Path, store: FolderStore
) -> None:
    drawn = draw(THREE, hand_of(store, GenerationOptions(steps=9)), tmp_path / "out")
    metadata = read_provenance(tmp_path / "out" / "3-owl.png")
    assert metadata["foreground"] == "an owl"
    assert metadata["background"] == "a lamp, a fox, a forest"
    assert (metadata["seed"], metadata["steps"], metadata["checkpoint"]) == (
        "4",
        "9",
        CHECKPOINT.id,
    )
    assert (metadata["role"], metadata["layer"]) == ("foreground", "owl")
    with pytest.raises(NotFound):
        read_provenance(tmp_path / "out" / "2-lamp.png")
    before, after = ((tmp_path / "out" / f"blended-{n}.png").read_bytes() for n in (1, 2))
    assert b"/trainedAlgorithmicMedia" in before
    assert b"/compositeWithTrainedAlgorithmicMedia" in after
    assert (drawn.checkpoint, drawn.made["steps"], drawn.whole) == (CHECKPOINT.id, "9", THREE.whole)


def test_a_background_is_drawn_to_fit_the_files_on_it(tmp_path: Path, store: FolderStore) -> None:
    scene = Scene(
        Background("a beach"), (replace(THREE.layers[1], opacity=128), SceneLayer("owl", "an owl"))
    )
    hand = hand_of(store)
    drawn = draw(scene, hand, tmp_path / "out")
    (under, given), (_, over) = hand.generator.asked
    assert under.prompt.background == "a beach"
    [(role, sha256)] = given.given.items()
    assert role is LayerRole.foreground
    expected = composite(
        place_on_canvas(apply_opacity(PICTURES[LAMP], 128), (-5, 50), (64, 64)),
        new_canvas((64, 64)),
    )
    assert np.array_equal(decode_layer(store.get(sha256)), expected)
    assert list(over.given) == [LayerRole.background]
    assert [step.blended for step in drawn.steps] == [
        "blended-0.png",
        "blended-1.png",
        "blended-2.png",
    ]


@pytest.mark.parametrize("fit", FitMode)
def test_layers_are_generated_over_a_users_photograph(
    tmp_path: Path, store: FolderStore, fit: FitMode
) -> None:
    scene = Scene(Background(None, PHOTO, (9, 8, 7), fit), (SceneLayer("fox", "a fox"),))
    hand = hand_of(store)
    drawn = draw(scene, hand, tmp_path / "out")
    assert drawn.size == (64, 64)  # the checkpoint's own
    photo = read_image(tmp_path / "out" / "0-background.png")
    assert (photo[..., 3] == 255).all()
    [(_, options)] = hand.generator.asked
    assert np.array_equal(decode_layer(store.get(options.given[LayerRole.background])), photo)
    if fit is FitMode.contain:
        assert (photo[:10, :, :3] == (9, 8, 7)).all()


def test_the_canvas_has_the_requested_generated_or_photograph_size(
    tmp_path: Path, store: FolderStore
) -> None:
    fox = (SceneLayer("fox", "a fox"),)
    assert draw(
        Scene(Background("sky"), fox, size="48x32"), hand_of(store), tmp_path / "a"
    ).size == (48, 32)
    assert draw(Scene(Background("sky"), fox, size="3:2"), hand_of(store), tmp_path / "b").size == (
        96,
        64,
    )
    lamp = (SceneLayer("lamp", None, LAMP),)
    drawn = draw(Scene(Background(file=PHOTO), lamp), None, tmp_path / "c")
    assert (drawn.size, drawn.checkpoint, drawn.complete) == ((90, 50), None, True)
    with pytest.raises(NotFound):
        read_provenance(tmp_path / "c" / "blended-1.png")
    with pytest.raises(Refused, match="size of the scene is unknown"):
        draw(Scene(Background(colour=(1, 2, 3)), lamp), None, tmp_path / "d")
    with pytest.raises(Refused, match="needs a generator"):
        draw(Scene(Background("sky"), lamp, size="64x64"), None, tmp_path / "e")


class Single(PairPainter):
    """A generator from before pairs."""

    def _pair(self, request, options) -> Layers:
        return {LayerRole.foreground: super()._pair(request, options)[LayerRole.foreground]}


class Stubborn(PairPainter):
    """A generator that ignores the requested size."""

    def _pair(self, request, options) -> Layers:
        return super()._pair(request, replace(options, size=None, given={}))


@pytest.mark.parametrize(
    ("painter", "scene", "says", "hint"),
    [
        (Single, THREE, "generates single layers only", "trained on pairs"),
        (
            Single,
            Scene(Background(file=PHOTO), THREE.layers[:1]),
            "generates single layers only",
            "--checkpoint",
        ),
        (
            Stubborn,
            replace(THREE, size="96x64"),
            "generated with 64x64 pixels instead of 96x64",
            "64x64",
        ),
    ],
)
def test_unsupported_generators_are_refused(
    tmp_path: Path,
    store: FolderStore,
    painter: type[PairPainter],
    scene: Scene,
    says: str,
    hint: str,
) -> None:
    with pytest.raises(Refused) as refused:
        draw(scene, hand_of(store, painter=painter), tmp_path / "out")
    assert says in refused.value.message
    assert hint in refused.value.hint


def test_finished_steps_are_not_generated_again(tmp_path: Path, store: FolderStore) -> None:
    drawn = draw(THREE, hand_of(store), tmp_path / "out")
    before = files(tmp_path / "out")

    def never() -> PairPainter:
        raise AssertionError("the weights need not be loaded")

    again = draw(THREE, SceneGenerator(CHECKPOINT, never, store), tmp_path / "out")
    assert again == drawn
    assert files(tmp_path / "out") == before


def test_another_scene_needs_force_and_keeps_what_is_equal(
    tmp_path: Path, store: FolderStore
) -> None:
    out = tmp_path / "out"
    draw(THREE, hand_of(store), out)
    before = files(out)
    other = replace(THREE, layers=(*THREE.layers[:2], SceneLayer("bear", "a bear", seed=9)))
    with pytest.raises(Refused, match="another scene from step 3 on"):
        draw(other, hand_of(store), out)
    assert files(out) == before
    hand = hand_of(store)
    drawn = draw(other, hand, out, force=True)
    assert len(hand.generator.asked) == 1
    assert "3-owl.png" not in files(out)
    assert sorted(files(out)) == sorted([*drawn.names, "manifest.json"])
    for name in ("0-background.png", "1-fox.png", "2-lamp.png", "blended-2.png"):
        assert files(out)[name] == before[name]
    with pytest.raises(Refused, match="another scene from step 3 on"):
        draw(replace(other, layers=other.layers[:2], whole=None), hand_of(store), out)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda s: replace(s, background=Background("a desert")), 1),
        (lambda s: replace(s, size="32x32"), 1),
        (lambda s: replace(s, layers=(replace(s.layers[0], seed=8), *s.layers[1:])), 1),
        (lambda s: replace(s, layers=(replace(s.layers[0], opacity=8), *s.layers[1:])), 1),
        (
            lambda s: replace(
                s, layers=(s.layers[0], replace(s.layers[1], position=(0, 0)), s.layers[2])
            ),
            2,
        ),
        (
            lambda s: replace(
                s, layers=(s.layers[0], replace(s.layers[1], scale=0.5), s.layers[2])
            ),
            2,
        ),
        (lambda s: replace(s, whole="another whole"), 3),
    ],
)
def test_every_change_of_an_image_is_another_step(
    tmp_path: Path, store: FolderStore, change: Callable[[Scene], Scene], step: int
) -> None:
    draw(THREE, hand_of(store), tmp_path / "out")
    with pytest.raises(Refused, match=f"another scene from step {step} on"):
        draw(change(THREE), hand_of(store), tmp_path / "out")


def test_another_file_of_the_same_name_or_another_checkpoint_is_another_step(
    tmp_path: Path, store: FolderStore
) -> None:
    draw(THREE, hand_of(store), tmp_path / "out")
    others = PICTURES | {LAMP: image(50, 20, 30)}
    with pytest.raises(Refused, match="from step 2 on"):
        generate_scene(THREE, others, hand_of(store), tmp_path / "out", lambda _: None)
    hand = SceneGenerator(replace(CHECKPOINT, seed=1), lambda: PairPainter(store), store)
    with pytest.raises(Refused, match="from step 1 on"):
        draw(THREE, hand, tmp_path / "out")
    with pytest.raises(Refused, match="from step 1 on"):
        draw(THREE, hand_of(store, GenerationOptions(guidance=3)), tmp_path / "out")


def test_changed_or_lost_files_are_generated_again(tmp_path: Path, store: FolderStore) -> None:
    out = tmp_path / "out"
    draw(THREE, hand_of(store), out)
    before = files(out)
    (out / "2-lamp.png").unlink()
    draw(THREE, hand_of(store), out)
    assert files(out) == before
    Image.open(out / "3-owl.png").rotate(90).save(
        out / "3-owl.png"
    )  # somebody's own work is not written over
    edited = files(out)
    with pytest.raises(Refused, match=r"was changed after .*3-owl\.png"):
        draw(THREE, hand_of(store), out)
    assert files(out) == edited
    draw(THREE, hand_of(store), out, force=True)
    assert files(out) == before


def test_folders_with_other_content_are_refused(tmp_path: Path, store: FolderStore) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(Refused, match="is not a scene"):
            draw(THREE, hand_of(store), tmp_path / "mine", force)
    (tmp_path / "file").write_text("x")
    with pytest.raises(Refused, match="is not a scene"):
        draw(THREE, hand_of(store), tmp_path / "file")
    draw(THREE, hand_of(store), tmp_path / "out")
    text = (tmp_path / "out" / "manifest.json").read_text()
    for broken in (
        text[:50],
        text.replace("1-fox.png", "../1-fox.png"),
        text.replace('"manifest": 1', '"manifest": 9'),
        "[]",
    ):
        (tmp_path / "out" / "manifest.json").write_bytes(broken.encode("utf-8", "surrogateescape"))
        with pytest.raises(Corrupt, match="is invalid"):
            draw(THREE, hand_of(store), tmp_path / "out")


def test_a_run_stopped_before_a_file_is_renamed_resumes(
    tmp_path: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run interrupted at any rename resumes to the same files."""
    whole = draw(THREE, hand_of(store), tmp_path / "whole")
    expected, stops = files(tmp_path / "whole"), 0
    rename = Path.replace
    for moment in range(1, 30):
        out, left = tmp_path / f"stopped-{moment}", [moment]

        def failing(self: Path, target: Path, left: list[int] = left) -> Path:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", failing)
        try:
            draw(THREE, hand_of(store), out)
            break
        except KeyboardInterrupt:
            stops += 1
        finally:
            monkeypatch.setattr(Path, "replace", rename)
        done = read_manifest(out)
        hand = hand_of(store)
        assert draw(THREE, hand, out) == whole
        assert files(out) == expected
        assert len(hand.generator.asked if "generator" in hand.__dict__ else []) == 2 - sum(
            any(layer.source == "drawn" for layer in step.layers)
            for step in (done.steps if done else ())
        )
    assert stops >= 11  # seven pictures and four manifests


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.curation.scenes.test_scene_generation import CHECKPOINT, THREE, draw
from curation.object_store import FolderStore
from curation.scenes.layer_source import SceneGenerator
from tests.support.pair_generator import PairPainter

class Dying(PairPainter):
    def _pair(self, request, options):
        if len(self.asked) == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._pair(request, options)

store = FolderStore(Path({folder!r}) / "objects")
draw(THREE, SceneGenerator(CHECKPOINT, lambda: Dying(store), store), Path({folder!r}) / "out")
"""


@pytest.mark.parametrize("drawings", [0, 1])
def test_a_run_killed_while_generating_resumes(tmp_path: Path, drawings: int) -> None:
    root = str(Path(__file__).resolve().parents[3])
    program = KILLED.format(root=root, folder=str(tmp_path))
    killed = subprocess.run(
        [sys.executable, "-c", program, str(drawings)], check=False, env=os.environ, cwd=root
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(read_manifest(tmp_path / "out").steps) == 2 * drawings
    store = FolderStore(tmp_path / "objects")
    hand = hand_of(store)
    drawn = draw(THREE, hand, tmp_path / "out")
    assert len(hand.generator.asked) == 2 - drawings
    draw(THREE, hand_of(store), tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert drawn.complete


def test_the_manifest_is_read_back(tmp_path: Path, store: FolderStore) -> None:
    drawn = draw(THREE, hand_of(store), tmp_path / "out")
    accounts.write_manifest(tmp_path, drawn)
    assert read_manifest(tmp_path) == drawn
    assert read_manifest(tmp_path / "nowhere") is None
