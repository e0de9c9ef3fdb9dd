"""Log files of a home's processes: bounded in size, and readable by their owner only."""

import stat
import subprocess
import sys

from curation.runtime.log_files import open_log, rotate_log, rotating_log


def test_a_log_is_for_its_owner_alone_also_an_old_one(tmp_path):
    old = tmp_path / "old.log"
    old.write_text("before\n")
    old.chmod(0o644)
    for path in (old, tmp_path / "new.log"):
        with open_log(path) as log:
            log.write(b"line\n")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert old.read_text() == "before\nline\n"


def test_a_log_is_cut_under_a_process_that_goes_on_writing(tmp_path):
    path = tmp_path / "a.log"
    program = "import sys\nfor line in sys.stdin:\n    print(line.strip() * 100, flush=True)\n    print('ok', file=sys.stderr, flush=True)\n"
    with open_log(path) as log:
        writer = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert writer.stdin and writer.stderr
    with writer, writer.stdin, writer.stderr:
        for n in range(200):
            print(n % 10, file=writer.stdin, flush=True)
            writer.stderr.readline()
            rotate_log(path, 1000)
            assert path.stat().st_size <= 1000 + 101
    earlier = tmp_path / "a.log.1"
    assert earlier.stat().st_size <= 1000
    assert stat.S_IMODE(earlier.stat().st_mode) == 0o600
    assert path.read_bytes().count(b"\0") == 0
    assert {file.name for file in tmp_path.iterdir()} == {"a.log", "a.log.1"}


def test_a_link_is_not_followed_and_a_missing_log_is_ignored(tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"x" * 5000)
    (tmp_path / "a.log").symlink_to(target)
    rotate_log(tmp_path / "a.log", 1000)
    rotate_log(tmp_path / "none.log", 1000)
    with rotating_log(tmp_path / "none.log"):
        pass
    assert target.stat().st_size == 5000
