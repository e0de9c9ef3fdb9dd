"""Arguments of imports that may be addresses on the Hugging Face Hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.cli.output import print_result, settings
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.adapters.hub.download import RemoteFiles
    from curation.ports import ProgressCallback

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "checkpoint.json", "sheet.png")
"""The files of checkpoints; nothing that could be a pickle."""
IMAGES = (
    "*.png", "*.webp", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.gif", "*.bmp", "*.avif",
    "*.jsonl", "*.csv", "*.json", "*.txt", "*.caption", "*.zip", "*.tar", "*.parquet",
)  # fmt: skip
"""The files that an import of seeds reads."""
DESCRIPTIONS = ("croissant.json", "dataset_infos.json")
"""Files about a dataset that no import reads."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def fetch_weights(
    words: Sequence[str], report: ProgressCallback, *, dry_run: bool, as_json: bool
) -> list[Path] | None:
    """Return the files of an import of weights, downloaded where they are addresses.

    Args:
        words: Paths, or hf://owner/name, hf://owner/name/file@revision.
        report: Receives the progress.
        dry_run: Only list what would be downloaded.
        as_json: List it as JSON.

    Returns:
        Paths; None in a dry run with an address, whose files were listed.

    Raises:
        NotFound: There is no such repository, revision or file.
        Refused: A file is not safetensors, or the token is missing.
        Unreachable: The Hub does not answer.
    """
    from curation.adapters.hub.address import is_hub_address

    if not any(map(is_hub_address, words)):
        return [Path(word) for word in words]
    found = [(word, find_weights(word) if is_hub_address(word) else None) for word in words]
    if dry_run:
        for _, remote in found:
            if remote is not None:
                print_plan(remote, as_json)
        return None
    return [download_files(remote, report) if remote else Path(word) for word, remote in found]


def find_seeds(address: str) -> RemoteFiles:
    """List the files of a dataset that an import of seeds reads; the arguments as `fetch_weights`.

    Raises:
        NotFound, Refused, Unreachable: As `fetch_weights`.
    """
    from curation.adapters.hub.address import RepositoryKind, parse_address
    from curation.adapters.hub.download import find_files

    parsed = parse_address(address, RepositoryKind.dataset)
    if parsed.file:
        raise Refused(
            f"{address!r} names a file, and seeds are imported from a whole dataset",
            f"for example hf://{parsed.repository}",
        )
    return find_files(parsed, IMAGES, DESCRIPTIONS)


def print_plan(remote: RemoteFiles, as_json: bool) -> None:
    """Print what would be downloaded."""
    print_result(
        f"would download {len(remote.sizes)} files, {remote.total_bytes / 1e6:.1f} MB, of "
        f"{remote.address}",
        as_json,
        address=str(remote.address),
        files=[{"path": path, "size": size} for path, size in remote.sizes.items()],
        bytes=remote.total_bytes,
    )


def describe_rights(remote: RemoteFiles) -> str:
    """Return a sentence about the licence that the card of a dataset states."""
    from curation.adapters.hub.download import download_card

    card = download_card(remote, settings().path(f"downloads/cards/{remote.address.folder_name}"))
    if card is None:
        return "the dataset has no card that states a licence"
    head = card.read_bytes()[: 1 << 16].decode("utf-8", "replace")
    front = re.match(r"---\r?\n(.*?)\r?\n---", head, re.DOTALL)
    stated = re.search(r"^license:\s*[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    if stated is None:
        return "the card of the dataset states no licence"
    return (
        f"the card of the dataset states the licence {stated[1]!r}; if that is right for every "
        f"image, give --licence {stated[1]}"
    )


def find_weights(word: str) -> RemoteFiles:
    """List the files of a checkpoint, or a file of weights with its shards.

    Raises:
        NotFound, Refused, Unreachable: As `fetch_weights`.
    """
    from curation.adapters.hub.address import RepositoryKind, parse_address
    from curation.adapters.hub.download import find_files

    parsed = parse_address(word, RepositoryKind.model)
    if parsed.file and not parsed.file.endswith((".safetensors", ".safetensors.index.json")):
        raise Refused(
            f"{parsed.file} is no safetensors file",
            "other files of weights can run code when they are loaded and are never read",
        )
    if not parsed.file:
        remote = find_files(parsed, WEIGHTS)
        if "checkpoint.json" not in remote.sizes:
            raise Refused(
                f"{word} is no checkpoint that Layerloop pushed, and has "
                f"{', '.join(sorted(remote.sizes)[:5])}",
                f"name the files to import, such as {word}/{min(remote.sizes)}",
            )
        return remote
    # A part of a file in shards comes with the others and their index.
    stem = parsed.file.removesuffix(".index.json").removesuffix(".safetensors").lower()
    whole = glob.escape(_SHARD.sub("", stem))
    names = [".safetensors", "-[0-9]*-of-[0-9]*.safetensors", ".safetensors.index.json"]
    return find_files(parsed, [f"{whole}{name}" for name in names])


def download_files(remote: RemoteFiles, report: ProgressCallback) -> Path:
    """Download files, and return the file that was named, or the folder."""
    from curation.adapters.hub import download

    address = remote.address
    folder = settings().path(f"downloads/{address.folder_name}")
    download.download_files(remote, folder, report)
    return folder / address.file if address.file else folder
