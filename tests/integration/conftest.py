"""The two databases every database test runs on: SQLite in a file, and PostgreSQL from a private cluster.

The cluster lives in its own temporary folder behind a unix socket (no TCP port), with fsync off: it tests SQL, not
durability. It is started on first use and killed at the end of the run.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from control_plane.db.engine import Database

_ROOT = Path("/usr/lib/postgresql")
_PORT = 5432  # part of the socket's file name only


def _binaries() -> Path:
    versions = sorted((p for p in _ROOT.glob("*/bin") if (p / "postgres").exists()), key=lambda p: int(p.parent.name))
    if not versions:
        if os.environ.get("WAVEGATE_SKIP_POSTGRES") == "1":
            pytest.skip("WAVEGATE_SKIP_POSTGRES=1 and no PostgreSQL here")
        pytest.fail(
            f"No PostgreSQL under {_ROOT}. Install it (`apt-get install postgresql`), "
            "or set WAVEGATE_SKIP_POSTGRES=1 to leave these tests out knowingly."
        )
    return versions[-1]


def _start(folder: Path, binaries: Path) -> subprocess.Popen[bytes]:
    # PostgreSQL refuses to run as root; where the tests do, it runs as its own user.
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    if who:
        entry = pwd.getpwnam("postgres")
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    data = folder / "data"
    initdb = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=trust",
        "--no-sync",
        "--locale=C",
        "-E",
        "UTF8",
    ]
    subprocess.run(initdb, check=True, cwd=folder, stdout=subprocess.DEVNULL, **who)
    arguments = [binaries / "postgres", "-D", data, "-k", folder, "-p", str(_PORT), "-c", "listen_addresses="]
    for setting in ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=80"):
        arguments += ["-c", setting]
    with (folder / "postgres.log").open("wb") as log:
        return subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log, **who)


@pytest.fixture(scope="session")
def postgres_cluster():
    """The socket folder of a private PostgreSQL, holding the migrated template database ``wavegate_template``."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="wg-pg-"))
    process = _start(folder, binaries)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(host=str(folder), port=_PORT, user="postgres", autocommit=True) as connection:
                    connection.execute("CREATE DATABASE wavegate_template")
                break
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("PostgreSQL did not start:\n" + (folder / "postgres.log").read_text())
                time.sleep(0.05)
        template = Database(_url(folder, "wavegate_template"))
        template.upgrade()
        template.close()
        yield folder
    finally:
        process.send_signal(signal.SIGQUIT)  # immediate shutdown; nothing here is kept
        process.wait(30)
        shutil.rmtree(folder)


def _url(folder: Path, name: str) -> str:
    return f"postgresql://postgres@/{name}?host={folder}&port={_PORT}"


@pytest.fixture
def postgres_url(postgres_cluster):
    """The address of a fresh, migrated PostgreSQL database, dropped afterwards."""
    name = f"t_{os.urandom(6).hex()}"
    with psycopg.connect(host=str(postgres_cluster), port=_PORT, user="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE wavegate_template")
        yield _url(postgres_cluster, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_postgres_url(postgres_cluster):
    """The address of a PostgreSQL database without any table."""
    name = f"t_{os.urandom(6).hex()}"
    with psycopg.connect(host=str(postgres_cluster), port=_PORT, user="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield _url(postgres_cluster, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """A migrated SQLite file, copied for each test."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """A fresh, migrated database; a test asking for it runs on both."""
    if request.param == "sqlite":
        path = tmp_path / "wavegate.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        opened = Database(f"sqlite:///{path}")
    else:
        opened = Database(request.getfixturevalue("postgres_url"))
    yield opened
    opened.close()
