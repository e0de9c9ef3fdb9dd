"""Files of pair prompts grow by whole lines, and an incomplete last line is removed."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from curation.errors import Refused
from curation.prompts.grammar import generate
from curation.prompts.pair_files import append_prompts, read_pair_prompts, write_line


def test_written_prompts_are_read_again(tmp_path):
    path, prompts = tmp_path / "new" / "prompts.jsonl", list(islice(generate(0), 5))
    assert read_pair_prompts(path) == []
    append_prompts(path, prompts[:2])
    append_prompts(path, prompts[2:])
    assert read_pair_prompts(path) == prompts
    assert set(json.loads(path.read_text().splitlines()[0])) == {"text", "foreground", "background"}


def test_an_incomplete_last_line_is_generated_again(tmp_path):
    path, prompts = tmp_path / "prompts.jsonl", list(islice(generate(0), 3))
    append_prompts(path, prompts)
    for cut in (1, 9, 40):
        path.write_bytes("".join(map(write_line, prompts)).encode()[:-cut])
        assert read_pair_prompts(path) == prompts[:2]
        append_prompts(path, prompts[2:])
        assert read_pair_prompts(path) == prompts


def test_a_file_with_other_content_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(write_line(next(generate(0))) + "a red circle\n")
    with pytest.raises(Refused, match="line 2: not a line of JSON"):
        read_pair_prompts(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(Refused, match="line 1"):
        read_pair_prompts(path)
