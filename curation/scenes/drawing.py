"""A scene drawn into a folder, step by step; what lies there already, unchanged, is not drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from curation import __version__
from curation.domain import Progress, canonical_json, content_id
from curation.errors import Refused
from curation.images.codec import visible_hash
from curation.ports import RGBA, Report
from curation.scenes.layer_source import SceneGenerator
from curation.scenes.manifest import (
    LAYERED,
    KeptStep,
    Manifest,
    begun,
    intact,
    read_manifest,
    write_manifest,
)
from curation.scenes.planning import Step, plan
from curation.scenes.renderer import SceneRenderer
from curation.scenes.scene import Scene
from curation.scenes.sizes import read_size


def draw_scene(
    scene: Scene,
    pictures: Mapping[Path, RGBA],
    hand: SceneGenerator | None,
    folder: Path,
    report: Report,
    force: bool = False,
) -> Manifest:
    """Draw what of a scene is not in the folder yet, and return the account of all of it.

    `pictures` are the scene's files, decoded; `hand` may be None where nothing is to be drawn. Files are written
    whole and then named, and the manifest after each step, so a drawing that was stopped goes on with the next step.
    Raises Refused where the folder holds something else, unless `force` says that it may be drawn over.
    """
    before = read_manifest(folder)
    if before is None and folder.exists() and not _free(folder):
        raise Refused(f"{folder} is there already and holds no scene", "give another --out")
    steps, size = plan(scene), _size(scene, pictures, hand, before)
    keys = _keys(scene, steps, pictures, hand, size)
    kept = _kept(before, folder, keys, force) if before else ()
    drawn = Manifest(
        version=__version__,
        size=size,
        asked=scene.size,
        whole=scene.whole,
        checkpoint=hand.checkpoint.id if hand else None,
        preset=hand.checkpoint.preset if hand else None,
        made=before.made if before and kept else {},
        steps=kept,
        complete=len(kept) == len(steps),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, drawn)
    _clear(folder, before, drawn)
    easel = SceneRenderer(scene, pictures, hand, folder, size)
    for layer in drawn.layers:
        easel.take(layer)
    report(Progress("drawing", len(kept), len(steps)))
    for number in range(len(kept), len(steps)):
        drawn = replace(
            drawn,
            steps=(*drawn.steps, easel.make(steps[number], keys[number])),
            made=hand.describe(size) if hand and steps[number].request else drawn.made,
            complete=number + 1 == len(steps),
        )
        write_manifest(folder, drawn)
        report(Progress("drawing", number + 1, len(steps)))
    return drawn


def _clear(folder: Path, before: Manifest | None, kept: Manifest) -> None:
    """Remove what a scene left here that is drawn over now, and files that were never finished."""
    gone = {
        *begun(folder),
        *(before.names if before else ()),
        *(() if kept.complete else LAYERED.values()),
    }
    for name in gone - set(kept.names):
        (folder / name).unlink(missing_ok=True)


def _free(folder: Path) -> bool:
    """Whether nothing is in a folder but what a drawing left that was stopped before its first file had a name."""
    return folder.is_dir() and all(path.name in begun(folder) for path in folder.iterdir())


def _size(
    scene: Scene,
    pictures: Mapping[Path, RGBA],
    hand: SceneGenerator | None,
    before: Manifest | None,
) -> tuple[int, int]:
    """The canvas: as the scene asks, or as the checkpoint draws, or as large as the background's own file."""
    size, aspect = read_size(scene.size)
    if size is None and hand is not None:
        if before and (before.asked, before.checkpoint) == (scene.size, hand.checkpoint.id):
            return before.size[0], before.size[
                1
            ]  # found out then; the weights need not be loaded to ask again
        size = hand.size(aspect)
    if size is None and aspect is None and scene.background.file is not None:
        height, width = pictures[scene.background.file].shape[:2]
        size = width, height
    if size is None:
        raise Refused(
            "how large the scene is to be is not known", 'write size = "1024x1024", or give --size'
        )
    return size


def _keys(
    scene: Scene,
    steps: Sequence[Step],
    pictures: Mapping[Path, RGBA],
    hand: SceneGenerator | None,
    size: tuple[int, int],
) -> list[str]:
    """A hash for each step of all that decides what it leaves, the steps before it included."""
    hashes = {path: visible_hash(rgba) for path, rgba in pictures.items()}

    def thing(place: int) -> object:
        one = scene.layers[place - 1] if place else scene.background
        said = {name: value for name, value in one.__dict__.items() if name != "file"}
        return said | {"picture": hashes.get(one.file) if one.file else None}

    keys: list[str] = []
    for step in steps:
        asked: dict[str, object] = {"size": size, "way": step.way, "before": keys[-1:]}
        asked["things"] = [thing(place) for place in (*step.places, *step.given)]
        if step.request and hand:
            prompt = step.request.prompt
            asked["request"] = [
                prompt.text,
                prompt.foreground,
                prompt.background,
                step.request.seed,
            ]
            asked["hand"] = [
                hand.checkpoint.id,
                {**hand.options.__dict__, "size": None, "given": None},
            ]
        keys.append(str(content_id("scene", canonical_json(asked))))
    return keys


def _kept(before: Manifest, folder: Path, keys: Sequence[str], force: bool) -> tuple[KeptStep, ...]:
    """Those of the folder's first steps that are as they would be drawn now. Raises Refused unless `force`."""
    kept: list[KeptStep] = []
    for number, step in enumerate(before.steps):
        if number >= len(keys) or step.key != keys[number]:
            if not force:
                hint = "give another --out, or --force to keep what is equal and draw the rest anew"
                raise Refused(f"{folder} holds another scene from step {number + 1} on", hint)
            break
        whole = intact(folder, step)
        if whole is False and not force:
            changed = ", ".join([*(layer.file for layer in step.layers), step.blended])
            raise Refused(
                f"a file of {folder} was changed since it was drawn ({changed})",
                "--force draws it anew",
            )
        if not whole:
            break
        kept.append(step)
    return tuple(kept)
