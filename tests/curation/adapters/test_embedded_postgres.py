"""The embedded PostgreSQL: one server per folder, restarted after any crash, and closed to other users."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from curation.adapters import embedded_postgres, postgres_user
from curation.adapters.embedded_postgres import is_running, start_server, stop_server
from curation.adapters.pgmq_schema import install_pgmq
from curation.adapters.postgres_process import find_orphans, is_alive
from curation.errors import LayerloopError, Unreachable
from tests.support.servers import free_port, wait_for

ROOT = Path(__file__).resolve().parents[3]


def pid_of(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


def query_value(address: str, query: str) -> object:
    with psycopg.connect(address) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row else None


def write(address: str, query: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(query)


@contextmanager
def folder_below(parent: Path, name: str) -> Iterator[Path]:
    folder = parent / name
    folder.mkdir(parents=True)
    yield folder
    stop_server(folder)


@pytest.fixture(scope="module")
def stopped_cluster() -> Iterator[Path]:
    """Yield a stopped cluster to copy: creating one takes seconds, starting one a fraction of that."""
    with tempfile.TemporaryDirectory(prefix="layerloop-test-") as name:
        start_server(Path(name))
        stop_server(Path(name))
        yield Path(name) / "data"


@pytest.fixture
def cluster(postgres_folder: Path, stopped_cluster: Path) -> Path:
    """Return the folder of a stopped cluster for one test."""
    subprocess.run(["cp", "--archive", stopped_cluster, postgres_folder / "data"], check=True)
    return postgres_folder


def test_a_server_is_started_used_stopped_and_started_again(cluster):
    address = start_server(cluster)
    assert is_running(cluster)
    assert str(query_value(address, "show server_version")).startswith("18")
    assert query_value(address, "select current_database()") == "layerloop"
    write(address, "create table kept (a int); insert into kept values (7)")
    first = pid_of(cluster)
    assert start_server(cluster) == address
    assert pid_of(cluster) == first, "the same server, not a second one"
    stop_server(cluster)
    assert not is_running(cluster)
    assert not is_alive(first)
    stop_server(cluster)  # stopping a stopped server does nothing
    assert query_value(start_server(cluster), "select a from kept") == 7


def test_no_port_is_open_and_no_other_user_may_enter(cluster):
    address = start_server(cluster)
    assert query_value(address, "show listen_addresses") == ""
    sockets = Path(str(query_value(address, "show unix_socket_directories")))
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE((sockets / ".s.PGSQL.5432").stat().st_mode) == 0o700
    assert stat.S_IMODE((cluster / "data").stat().st_mode) == 0o700
    assert [
        connection
        for connection in psutil.Process(pid_of(cluster)).net_connections()
        if connection.family != socket.AF_UNIX
    ] == []


def test_commits_are_durable(cluster):
    address = start_server(cluster)
    for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert query_value(address, f"show {setting}") == "on", setting


def test_text_sorts_alike_on_every_machine(cluster):
    address = start_server(cluster)
    assert (
        query_value(
            address,
            "select datlocprovider::text || datlocale from pg_database where datname = 'layerloop'",
        )
        == "bC.UTF-8"
    )
    assert query_value(
        address, "select array_agg(t order by t) from unnest(array['b','ä','a','Z']) t"
    ) == [
        "Z",
        "a",
        "b",
        "ä",
    ]


def test_pgmq_is_installed_and_installing_it_again_changes_nothing(cluster):
    address = start_server(cluster)
    write(address, "select pgmq.create('jobs'); select pgmq.send('jobs', '{\"a\": 1}')")
    threads = [threading.Thread(target=install_pgmq, args=(address,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert query_value(address, "select queue_length from pgmq.metrics('jobs')") == 1


def test_a_queue_cannot_be_installed_where_nobody_answers():
    with pytest.raises(Unreachable) as error:
        install_pgmq(f"postgresql://postgres@127.0.0.1:{free_port()}/layerloop")
    assert error.value.hint


@pytest.mark.slow
def test_processes_that_start_at_once_get_one_server(postgres_folder):
    program = "import sys, pathlib; from curation.adapters.embedded_postgres import start_server; print(start_server(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(postgres_folder)]
    starts = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    addresses = {process.communicate(timeout=120)[0].strip() for process in starts}
    assert [process.returncode for process in starts] == [0, 0, 0]
    assert len(addresses) == 1
    data = str(postgres_folder / "data")
    servers = [
        p
        for p in psutil.process_iter(["cmdline"])
        if data in (p.info["cmdline"] or []) and p.name() == "postgres"
    ]
    assert len(servers) == 1


@pytest.mark.parametrize(
    "name", ["deep/" * 40 + "home", "a home with 'quotes', $HOME, `ls` and \"more\"", "häuschen"]
)
def test_folders_with_long_and_unusual_names_work(postgres_folder, stopped_cluster, name):
    with folder_below(postgres_folder, name) as folder:
        subprocess.run(["cp", "--archive", stopped_cluster, folder / "data"], check=True)
        address = start_server(folder)
        assert query_value(address, "select 1") == 1
        sockets = Path(str(query_value(address, "show unix_socket_directories")))
        assert len(os.fsencode(sockets / ".s.PGSQL.5432.lock")) <= 107


def test_a_killed_server_is_started_again_with_all_that_was_committed(cluster):
    address = start_server(cluster)
    write(address, "create table kept (a int); insert into kept values (7)")
    os.kill(pid_of(cluster), signal.SIGKILL)
    assert start_server(cluster) == address
    assert query_value(address, "select a from kept") == 7


def test_a_backend_that_works_on_after_its_server_died_is_ended(cluster):
    """It holds the dead server's shared memory, so PostgreSQL does not start while it runs."""
    address = start_server(cluster)
    busy = psycopg.connect(address, autocommit=True)
    backend = psutil.Process(busy.info.backend_pid)
    endless = "do $$ begin loop perform 1; end loop; end $$"

    def work() -> None:
        with suppress(psycopg.OperationalError):
            busy.execute(endless)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(
        "the busy backend",
        lambda: (
            query_value(address, "select count(*) from pg_stat_activity where query like 'do %'")
            == 1
        ),
    )
    server = psutil.Process(pid_of(cluster))
    owner = server.uids().real
    server.kill()
    wait_for("the server's end", lambda: not is_alive(server.pid))
    wait_for("the orphan", lambda: backend.pid in {process.pid for process in find_orphans(owner)})
    assert query_value(start_server(cluster), "select 1") == 1
    assert not is_alive(backend.pid)
    thread.join(20)
    busy.close()
    assert not thread.is_alive()


def test_committed_rows_survive_a_kill_of_all_server_processes(cluster):
    address = start_server(cluster)
    write(address, "create table kept (a int)")
    unfinished = psycopg.connect(address)
    unfinished.execute("insert into kept values (1)")  # never committed
    write(address, "insert into kept values (2)")
    server = psutil.Process(pid_of(cluster))
    processes = [server, *server.children()]
    server.suspend()  # otherwise it restarts its children between two kills
    for process in reversed(processes):
        process.kill()
    unfinished.close()
    assert query_value(start_server(cluster), "select array_agg(a) from kept") == [2]


def test_a_pid_file_that_names_some_other_living_process_is_stale(cluster):
    start_server(cluster)
    lines = (cluster / "data" / "postmaster.pid").read_text().splitlines()
    stop_server(cluster)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (cluster / "data" / "postmaster.pid").write_text("\n".join([str(child.pid), *lines[1:]]) + "\n")
    assert not is_running(cluster)
    assert query_value(start_server(cluster), "select 1") == 1
    assert child.poll() is None, "another process with this pid is left alone"
    child.kill()
    child.wait(10)


def test_an_interrupted_first_start_is_repeated(postgres_folder):
    (postgres_folder / "data.new").mkdir()
    (postgres_folder / "data.new" / "PG_VERSION").write_text("18\n")
    assert query_value(start_server(postgres_folder), "select 1") == 1
    assert not (postgres_folder / "data.new").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(postgres_folder):
    (postgres_folder / "data").mkdir()
    (postgres_folder / "data" / "thesis.txt").write_text("years of work")
    with pytest.raises(LayerloopError, match="neither empty nor a database") as error:
        start_server(postgres_folder)
    assert "LAYERLOOP_HOME" in error.value.hint
    assert (postgres_folder / "data" / "thesis.txt").read_text() == "years of work"


def test_a_server_that_cannot_start_is_an_error_with_its_reason(cluster):
    start_server(cluster)
    stop_server(cluster)
    (cluster / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(LayerloopError, match="does not start") as error:
        start_server(cluster)
    assert "9.6" in error.value.hint


def test_a_socket_folder_that_somebody_else_made_is_not_used(cluster):
    start_server(cluster)
    sockets = Path((cluster / "data" / "postmaster.pid").read_text().splitlines()[4])
    stop_server(cluster)
    assert not sockets.exists()
    elsewhere = cluster / "trap"
    elsewhere.mkdir()
    sockets.symlink_to(elsewhere)
    try:
        with pytest.raises(LayerloopError, match="belongs to another user"):
            start_server(cluster)
    finally:
        sockets.unlink()
    sockets.mkdir(mode=0o777)
    sockets.chmod(0o777)
    try:
        with pytest.raises(LayerloopError, match="belongs to another user"):
            start_server(cluster)
    finally:
        sockets.rmdir()
    assert is_running(cluster) is False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_root_without_useradd_is_an_error_with_a_hint(postgres_folder, monkeypatch):
    monkeypatch.setattr(postgres_user, "SERVER_USER", "nobody-of-that-name")
    monkeypatch.setattr(postgres_user.shutil, "which", lambda *_, **__: None)
    with pytest.raises(LayerloopError, match="does not run as root") as error:
        start_server(postgres_folder)
    assert "ordinary user" in error.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_runs_the_server_as_the_owner_of_the_data(cluster):
    start_server(cluster)
    stop_server(cluster)
    nobody = pwd.getpwnam("nobody")
    for path in [cluster / "data", *(cluster / "data").rglob("*")]:
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    address = start_server(cluster)
    assert query_value(address, "select 1") == 1
    assert psutil.Process(pid_of(cluster)).username() == "nobody"


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_runs_the_server_itself(postgres_folder):
    nobody = pwd.getpwnam("nobody")
    probe = [sys.executable, "-c", "import curation.adapters.embedded_postgres"]
    user = {"user": "nobody", "group": nobody.pw_gid, "extra_groups": [], "cwd": ROOT}
    try:
        subprocess.run(probe, capture_output=True, check=True, **user)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("another user cannot reach this Python or this checkout")
    os.chown(postgres_folder, nobody.pw_uid, nobody.pw_gid)
    program = (
        "import sys, pathlib, psycopg; from curation.adapters.embedded_postgres import start_server, stop_server\n"
        "folder = pathlib.Path(sys.argv[1]); address = start_server(folder)\n"
        "print(psycopg.connect(address).execute('select current_user, 6 * 7').fetchone()[1]); stop_server(folder)"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(postgres_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **user)
    assert done.stdout == "42\n", done.stderr
    assert (postgres_folder / "data").stat().st_uid == nobody.pw_uid


def test_starting_prints_nothing_and_raises_no_warning(cluster):
    program = "import sys, pathlib; from curation.adapters.embedded_postgres import start_server; start_server(pathlib.Path(sys.argv[1]))"
    environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    command = [sys.executable, "-W", "error", "-c", program, str(cluster)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) in (("", ""), ("", access_message(cluster)))


def access_message(folder: Path) -> str:
    """Return the message for root when a closed folder was opened for the server's user."""
    return f"letting the user pgserver pass through {folder}\n"


def test_checking_whether_a_server_runs_takes_little_cpu_time(cluster):
    start_server(cluster)
    began = time.process_time()
    for _ in range(100):
        assert is_running(cluster)
    assert time.process_time() - began < 1


def test_a_short_socket_path_is_found_even_where_the_temporary_folder_is_deep(cluster, monkeypatch):
    deep_folder = cluster / ("t" * 100)
    deep_folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep_folder))
    address = start_server(cluster)
    assert query_value(address, "select 1") == 1
    digest = hashlib.sha256(os.fsencode(cluster / "data")).hexdigest()[:12]
    assert address.endswith(digest)
    assert address.partition("host=")[2].startswith("/tmp/layerloop-")
    assert shutil.which("postgres", path=str(embedded_postgres.find_programs()))
