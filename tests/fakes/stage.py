"""A stage for the keeper: small real programs that play agent and Envoy, and report what happens to them.

The programs are scripts on the standard library. Each looks up its part in a JSON file, one entry per start (the
last one repeats), and tells the test by datagram what it sees; so a test waits for events and never sleeps.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT = 20.0

COMMON = """
import json, os, resource, selectors, signal, socket, sys, time
from pathlib import Path

here = Path(sys.argv[1])
who = Path(sys.argv[0]).stem
report = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

def tell(event, **facts):
    told = json.dumps({"who": who, "pid": os.getpid(), "event": event, **facts}).encode()
    try:
        report.sendto(told, str(here / "stage"))
    except OSError:
        pass  # the test is over

def my_part():
    starts = here / f"{who}.starts"
    with starts.open("a") as file:
        file.write("x")
    parts = json.loads((here / f"{who}.json").read_text())
    return parts[min(len(starts.read_text()), len(parts)) - 1]

part = my_part()
loop = selectors.DefaultSelector()
pipe, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)

def on_signals():
    for number in os.read(pipe, 100):
        name = signal.Signals(number).name
        tell(name)
        if number == signal.SIGTERM and not part.get("stubborn"):
            sys.exit(0)

loop.register(pipe, selectors.EVENT_READ, on_signals)

def start(**facts):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    tell("started", sid=os.getsid(0), environ=dict(os.environ),
         files=resource.getrlimit(resource.RLIMIT_NOFILE), **facts)
    if "exit" in part:
        sys.exit(part["exit"])

def run():
    while True:
        for key, _ in loop.select():
            key.data()
"""

AGENT = """
fds = dict(entry.split(":") for entry in os.environ["POMERIUM_AGENT_SOCKETS"].split(","))
pages = socket.socket(fileno=int(fds["pages"]))
keeper = socket.socket(fileno=int(os.environ["POMERIUM_AGENT_KEEPER_FD"]))
heard = b""

def on_page():
    visitor, _ = pages.accept()
    visitor.sendall(str(os.getpid()).encode())
    visitor.close()

def on_keeper():
    global heard
    data = keeper.recv(65536)
    if not data:
        tell("keeper gone")
        sys.exit(0)
    heard += data
    while b"\\n" in heard:
        line, _, heard = heard.partition(b"\\n")
        said = json.loads(line)
        tell("heard", said=said)
        answer = {"hold": "held", "charge": "serving", "succeeded": "left"}.get(said["event"])
        if answer and answer not in part.get("mute", ()):
            keeper.sendall(json.dumps({"op": answer}).encode() + b"\\n")

loop.register(pages, selectors.EVENT_READ, on_page)
loop.register(keeper, selectors.EVENT_READ, on_keeper)
start(fds=fds)
if part.get("orphan"):
    gate, shut = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(shut)
        orphan = os.fork()
        if orphan:
            os._exit(0)
        os.read(gate, 1)  # until its parent has died
        tell("orphaned", parent=os.getppid())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(shut)
for line in part.get("says", ()):
    keeper.sendall(line.encode() + b"\\n")
if "POMERIUM_AGENT_SUCCESSOR" in os.environ and "prepared" not in part.get("mute", ()):
    keeper.sendall(b'{"op": "prepared"}\\n')
run()
"""

ENVOY = """
admin = here / "run" / "envoy-admin.sock"
admin.unlink(missing_ok=True)
listening = socket.socket(socket.AF_UNIX)
listening.bind(str(admin))
listening.listen()
in_flight = list(part.get("in_flight", []))

def on_admin():
    visitor, _ = listening.accept()
    request = visitor.recv(65536).split(b"\\r\\n")[0].decode()
    tell("asked", request=request)
    if part.get("dumb"):
        kept.append(visitor)
        return
    active = in_flight.pop(0) if in_flight else 0
    body = f"http.admin.downstream_rq_active: 1\\nhttp.main.downstream_rq_active: {active}\\n".encode()
    visitor.sendall(b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)
    visitor.close()

kept = []
loop.register(listening, selectors.EVENT_READ, on_admin)
start(bootstrap=Path(sys.argv[2]).read_text())
run()
"""

KEEPER = """
import json, os, sys
from pathlib import Path
from pomerium_agent.errors import SettingsError
from pomerium_agent.keeper import Patience, run_keeper
from pomerium_agent.settings import read_settings

rehearse = "--rehearse" in sys.argv
assert not (rehearse and Path(sys.argv[0]).with_name("broken").exists())
try:
    code = run_keeper(
        read_settings(),
        agent_argv=lambda: json.loads(sys.argv[1]),
        keeper_argv=lambda: [sys.executable, *sys.argv],
        patience=Patience(**json.loads(sys.argv[2])),
        rehearse=rehearse,
    )
except SettingsError as error:
    print(error, file=sys.stderr)
    code = 2
assert rehearse or not Path(os.environ["RUNTIME_DIRECTORY"]).exists() or code == 2 or sys.argv[3:]
sys.exit(code)
"""


class Stage:
    """One keeper with its players."""

    def __init__(
        self, here: Path, agent: Sequence[Mapping[str, Any]], envoy: Sequence[Mapping[str, Any]], bootstrap: str
    ) -> None:
        self.here = here
        self.run = here / "run"
        self.bootstrap = here / "bootstrap.json"
        self.bootstrap.write_text(bootstrap)
        self._heard: list[dict[str, Any]] = []
        self._box = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._box.bind(str(here / "stage"))
        self._box.settimeout(TIMEOUT)
        for name, text, parts in (("agent", AGENT, agent), ("envoy", ENVOY, envoy)):
            (here / f"{name}.py").write_text(COMMON + text)
            (here / f"{name}.json").write_text(json.dumps(parts).replace("ENVOY", self.envoy_line()[1:-1]))
        (here / "keeper.py").write_text(KEEPER)
        self.keeper: subprocess.Popen[str]

    def envoy_line(self) -> str:
        """What an agent says to have the player of Envoy started, quoted once for JSON."""
        argv = [sys.executable, str(self.here / "envoy.py"), str(self.here), str(self.bootstrap)]
        return json.dumps(json.dumps({"op": "envoy", "argv": argv, "bootstrap": str(self.bootstrap)}))

    def curtain(self, environ: Mapping[str, str], patience: Mapping[str, float], argv: Sequence[str] | None) -> None:
        agent = argv or [sys.executable, str(self.here / "agent.py"), str(self.here)]
        kept = ["dir is kept"] if self.run.exists() else []
        self.keeper = subprocess.Popen(
            [sys.executable, str(self.here / "keeper.py"), json.dumps(agent), json.dumps(patience), *kept],
            env={"PATH": os.environ["PATH"], "POMERIUM_ZERO_TOKEN": "t", "RUNTIME_DIRECTORY": str(self.run), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, who: str, event: str, **facts: object) -> dict[str, Any]:
        """The next report of this kind, each one given once."""
        for told in self._heard:
            if _fits(told, who, event, facts):
                self._heard.remove(told)
                return told
        while True:
            try:
                told = json.loads(self._box.recv(1 << 20))
            except TimeoutError:
                raise AssertionError(f"{who} did not report {event} {facts}; heard {self._heard}") from None
            if _fits(told, who, event, facts):
                return told  # type: ignore[no-any-return]  # JSON
            self._heard.append(told)

    def ask(self, **question: object) -> socket.socket:
        """A caller at the keeper's desk."""
        caller = visit(self.run / "keeper.sock")
        caller.sendall(json.dumps(question).encode() + b"\n")
        return caller

    def answers(self, caller: socket.socket) -> list[dict[str, Any]]:
        """What a caller is told until the keeper hangs up; the players are heard meanwhile, for few reports queue."""
        said = b""
        with caller:
            while True:
                ready, _, _ = select.select([caller, self._box], [], [], TIMEOUT)
                assert ready, said
                if self._box in ready:
                    self._heard.append(json.loads(self._box.recv(1 << 20)))
                elif data := caller.recv(65_536):
                    said += data
                else:
                    return [json.loads(line) for line in said.splitlines()]

    def still_untold(self) -> list[tuple[str, str]]:
        """What has been reported and not been waited for, in order."""
        self._box.setblocking(False)
        try:
            while True:
                self._heard.append(json.loads(self._box.recv(1 << 20)))
        except BlockingIOError:
            self._box.settimeout(TIMEOUT)
        return [(told["who"], told["event"]) for told in self._heard]

    def read_until(self, text: str) -> None:
        """Read what the keeper and its children print, up to and including a line that holds `text`."""
        assert self.keeper.stdout is not None
        said: list[str] = []
        while text not in (line := self.keeper.stdout.readline()):
            assert line, "".join(said)
            said.append(line)

    def end(self, *signals: signal.Signals) -> tuple[int, list[dict[str, Any]]]:
        """Send the signals, wait; the exit code and the lines of the keeper's log."""
        for number in signals:
            self.keeper.send_signal(number)
        output, _ = self.keeper.communicate(timeout=TIMEOUT)
        return self.keeper.returncode, [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def close(self) -> None:
        if self.keeper.poll() is None:
            self.keeper.kill()
        self.keeper.communicate(timeout=TIMEOUT)
        self._box.close()


def _fits(told: Mapping[str, Any], who: str, event: str, facts: Mapping[str, object]) -> bool:
    return (told["who"], told["event"]) == (who, event) and all(told.get(key) == fact for key, fact in facts.items())


@contextmanager
def stage(
    here: Path,
    *,
    agent: Sequence[Mapping[str, Any]] = ({"says": ["ENVOY"]},),
    envoy: Sequence[Mapping[str, Any]] = ({},),
    environ: Mapping[str, str] | None = None,
    patience: Mapping[str, float] | None = None,
    argv: Sequence[str] | None = None,
    bootstrap: str = "first",
) -> Iterator[Stage]:
    """Start a keeper; its agents and Envoys play these parts. ENVOY in what an agent says asks for Envoy."""
    opened = Stage(here, agent, envoy, bootstrap)
    opened.curtain(environ or {}, patience or {}, argv)
    try:
        yield opened
    finally:
        opened.close()


def gone(pid: int) -> bool:
    """Wait until the process has ended; False when it will not."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], TIMEOUT)[0])
    finally:
        os.close(fd)


def visit(path: Path) -> socket.socket:
    """A client's connection to one of the keeper's sockets."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(str(path))
    return sock
