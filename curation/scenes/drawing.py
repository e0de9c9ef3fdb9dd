"""Generation of a scene into a folder, step by step; unchanged steps are reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from curation import __version__
from curation.domain import Progress, canonical_json, content_id
from curation.errors import Refused
from curation.images.codec import pixel_hash
from curation.ports import RGBA, ProgressCallback
from curation.scenes.layer_source import SceneGenerator
from curation.scenes.manifest import (
    LAYERED_FILE_NAMES,
    SceneManifest,
    StepEntry,
    is_step_intact,
    read_manifest,
    unfinished_files,
    write_manifest,
)
from curation.scenes.planning import SceneStep, plan_steps
from curation.scenes.renderer import SceneRenderer
from curation.scenes.scene import Scene
from curation.scenes.sizes import parse_size


def generate_scene(
    scene: Scene,
    images: Mapping[Path, RGBA],
    generator: SceneGenerator | None,
    folder: Path,
    on_progress: ProgressCallback,
    force: bool = False,
) -> SceneManifest:
    """Generate the missing steps of a scene and return its manifest.

    Files are written completely before they get their names, and the manifest after each step, so
    an interrupted run continues with the next step.

    Args:
        scene: The scene.
        images: The scene's image files, decoded, H x W x 4 uint8.
        generator: The generator; None if nothing has to be generated.
        folder: The output folder.
        on_progress: Called with the progress after each step.
        force: Whether steps that differ, and changed files, may be replaced.

    Raises:
        Refused: The folder holds something else and `force` is false, or the size is unknown.
    """
    previous = read_manifest(folder)
    if previous is None and folder.exists() and not _is_unused(folder):
        raise Refused(f"{folder} already exists and is not a scene", "give another --out")
    # Compare the plan with the previous manifest, and reuse its equal first steps.
    steps, size = plan_steps(scene), _size(scene, images, generator, previous)
    keys = _keys(scene, steps, images, generator, size)
    kept = _kept(previous, folder, keys, force) if previous else ()
    manifest = SceneManifest(
        version=__version__,
        size=size,
        asked=scene.size,
        whole=scene.whole,
        checkpoint=generator.checkpoint.id if generator else None,
        preset=generator.checkpoint.preset if generator else None,
        made=previous.made if previous and kept else {},
        steps=kept,
        complete=len(kept) == len(steps),
    )
    # Write the manifest before old files are removed, so that it never names a missing file.
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, manifest)
    _remove_obsolete(folder, previous, manifest)
    # Rebuild the blend of the reused layers, then render the remaining steps on top.
    renderer = SceneRenderer(scene, images, generator, folder, size)
    for layer in manifest.layers:
        renderer.take(layer)
    on_progress(Progress("generating", len(kept), len(steps)))
    for index in range(len(kept), len(steps)):
        manifest = replace(
            manifest,
            steps=(*manifest.steps, renderer.make(steps[index], keys[index])),
            made=generator.describe(size) if generator and steps[index].request else manifest.made,
            complete=index + 1 == len(steps),
        )
        write_manifest(folder, manifest)
        on_progress(Progress("generating", index + 1, len(steps)))
    return manifest


def _remove_obsolete(folder: Path, previous: SceneManifest | None, manifest: SceneManifest) -> None:
    """Remove the files of replaced steps, and unfinished files."""
    obsolete = {
        *unfinished_files(folder),
        *(previous.names if previous else ()),
        *(() if manifest.complete else LAYERED_FILE_NAMES.values()),
    }
    for name in obsolete - set(manifest.names):
        (folder / name).unlink(missing_ok=True)


def _is_unused(folder: Path) -> bool:
    """Return whether a folder is empty except for files of an interrupted first step."""
    return folder.is_dir() and all(
        path.name in unfinished_files(folder) for path in folder.iterdir()
    )


def _size(
    scene: Scene,
    images: Mapping[Path, RGBA],
    generator: SceneGenerator | None,
    previous: SceneManifest | None,
) -> tuple[int, int]:
    """Return the canvas size as (width, height).

    In order of precedence: the scene's own, the checkpoint's, that of the background file.
    """
    # A size in the scene takes precedence; an aspect needs the checkpoint to turn it into pixels.
    size, aspect = parse_size(scene.size)
    if size is None and generator is not None:
        if previous and (previous.asked, previous.checkpoint) == (
            scene.size,
            generator.checkpoint.id,
        ):
            # Known from the earlier run, so the weights need not be loaded.
            return previous.size[0], previous.size[1]
        size = generator.size(aspect)
    if size is None and aspect is None and scene.background.file is not None:
        height, width = images[scene.background.file].shape[:2]
        size = width, height
    if size is None:
        raise Refused(
            "the size of the scene is unknown", 'write size = "1024x1024", or give --size'
        )
    return size


def _keys(
    scene: Scene,
    steps: Sequence[SceneStep],
    images: Mapping[Path, RGBA],
    generator: SceneGenerator | None,
    size: tuple[int, int],
) -> list[str]:
    """Return a hash per step of everything that determines its result, earlier steps included."""
    # Files count by their visible pixels, not by their names.
    hashes = {path: pixel_hash(rgba) for path, rgba in images.items()}

    def describe_item(index: int) -> object:
        item = scene.layers[index - 1] if index else scene.background
        fields = {name: value for name, value in item.__dict__.items() if name != "file"}
        return fields | {"picture": hashes.get(item.file) if item.file else None}

    keys: list[str] = []
    for step in steps:
        inputs: dict[str, object] = {"size": size, "way": step.way, "before": keys[-1:]}
        inputs["things"] = [describe_item(index) for index in (*step.places, *step.given)]
        # Generated steps also depend on the checkpoint and its options.
        if step.request and generator:
            prompt = step.request.prompt
            inputs["request"] = [
                prompt.text,
                prompt.foreground,
                prompt.background,
                step.request.seed,
            ]
            inputs["hand"] = [
                generator.checkpoint.id,
                {**generator.options.__dict__, "size": None, "given": None},
            ]
        keys.append(str(content_id("scene", canonical_json(inputs))))
    return keys


def _kept(
    previous: SceneManifest, folder: Path, keys: Sequence[str], force: bool
) -> tuple[StepEntry, ...]:
    """Return the leading steps that are still current. Raises Refused unless `force`."""
    kept: list[StepEntry] = []
    for index, step in enumerate(previous.steps):
        if index >= len(keys) or step.key != keys[index]:
            if not force:
                hint = (
                    "give another --out, or --force to keep equal steps and regenerate the others"
                )
                raise Refused(f"{folder} holds another scene from step {index + 1} on", hint)
            break
        # The step is the same; its files must still have the bytes that were written.
        is_intact = is_step_intact(folder, step)
        if is_intact is False and not force:
            changed = ", ".join([*(layer.file for layer in step.layers), step.blended])
            raise Refused(
                f"a file in {folder} was changed after it was generated ({changed})",
                "--force generates it again",
            )
        # A missing file (None) is generated again without `force`, since no user's work is lost.
        if not is_intact:
            break
        kept.append(step)
    return tuple(kept)
