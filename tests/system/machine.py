"""A bare Debian, booted by systemd-nspawn with a network of its own that has loopback only."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".make" / "system"  # what takes long and does not change: the base system, others' wheels
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = "systemd,systemd-sysv,dbus,python3,ca-certificates"
ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "cp")
BOOT, MAKE, COMMAND = 60, 400, 150  # seconds

Ran = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs, by the process id of its init."""

    init: int
    root: Path

    def run(self, script: str, environ: Mapping[str, str] | None = None, timeout: float = COMMAND) -> Ran:
        """A shell script as root in there; standard error comes with standard output."""
        variables = [f"{name}={value}" for name, value in {**ENVIRON, **(environ or {})}.items()]
        return subprocess.run(
            ["nsenter", "--target", str(self.init), "--all", "--", "env", "-i", *variables, "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def says(self, script: str, environ: Mapping[str, str] | None = None) -> str:
        """The same for what must succeed."""
        done = self.run(script, environ)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def eventually(self, what: str, holds: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"{what}: not within {seconds} s"
            time.sleep(0.2)


def missing() -> str:
    """Why no machine can be booted here; empty when one can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"no {', '.join(absent)} here; on Debian: apt install debootstrap systemd-container"
    return "" if os.geteuid() == 0 else "needs root, to boot a machine"


@contextmanager
def booted(directory: Path, wheels: Path) -> Iterator[Machine]:
    """A fresh copy of the base system; `wheels` is /srv/wheels in there, and our script /srv/install.sh."""
    root = directory / "root"
    run("cp", "-a", str(base_system()), str(root))
    log = (directory / "boot.log").open("w")
    binds = [f"--bind-ro={wheels}:/srv/wheels", f"--bind-ro={ROOT / 'install.sh'}:/srv/install.sh"]
    options = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe"]
    with (
        log,
        subprocess.Popen(
            ["systemd-nspawn", *options, *binds, "--boot", f"--directory={root}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as nspawn,
    ):
        try:
            yield up(nspawn, root)
        finally:
            nspawn.send_signal(signal.SIGTERM)  # it powers the machine off
            try:
                nspawn.wait(20)
            except subprocess.TimeoutExpired:
                nspawn.kill()
    shutil.rmtree(root, ignore_errors=True)


def up(nspawn: subprocess.Popen[bytes], root: Path) -> Machine:
    """Wait until it has started what it starts."""
    end = time.monotonic() + BOOT
    while time.monotonic() < end and nspawn.poll() is None:
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
        if children:
            machine = Machine(int(children[-1]), root)
            if machine.run("systemctl is-system-running").stdout.strip() in ("running", "degraded"):
                return machine
        time.sleep(0.2)
    raise AssertionError(f"the machine did not start: {(root.parent / 'boot.log').read_text()}")


def base_system() -> Path:
    """A minimal Debian, made once."""
    base = CACHE / SUITE
    if not base.exists():
        making = CACHE / f"{SUITE}.making"
        shutil.rmtree(making, ignore_errors=True)
        making.parent.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(making))
        making.rename(base)
    return base


def wheelhouse(directory: Path) -> Path:
    """Our wheel as the tree has it now, pip, and all that ours needs, made for the Python of the machine."""
    house = directory / "wheels"
    house.mkdir()
    run(*PIP, "wheel", "--quiet", "--no-deps", f"--wheel-dir={house}", str(ROOT))
    # Others' wheels are asked for each time and fetched once, as the requirements may have changed.
    others = CACHE / "wheels"
    run(
        *(*PIP, "download", "--quiet", f"--dest={others}", "--only-binary=:all:", f"--python-version={PYTHON}"),
        *(f"--find-links={others}", "pip>=25.1", str(ours(house))),
    )
    for wheel in others.glob("*.whl"):
        if not wheel.name.startswith("pomerium_agent-"):
            os.link(wheel, house / wheel.name) if same_disk(wheel, house) else shutil.copy(wheel, house)
    seal(house)
    return house


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def ours(house: Path) -> Path:
    (wheel,) = house.glob("pomerium_agent-*.whl")
    return wheel


def another_release(house: Path, name: str, version: str, spoil: Mapping[str, str] | None = None) -> Path:
    """A directory of wheels below `house` with our wheel as `version`, some of its files replaced."""
    made = house / name
    made.mkdir()
    original = ours(house)
    old = original.name.split("-")[1]
    with (
        zipfile.ZipFile(original) as source,
        zipfile.ZipFile(made / original.name.replace(old, version), "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.namelist():
            content = source.read(entry)
            if entry.endswith(".dist-info/METADATA"):
                content = content.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode())
            if entry.endswith(".dist-info/RECORD"):
                # Hashes of what was replaced are left out, which the format allows.
                lines = content.decode().replace(f"-{old}.", f"-{version}.").splitlines()
                content = "".join(f"{line.split(',')[0]},,\n" for line in lines).encode()
            content = (spoil or {}).get(entry, "").encode() or content
            target.writestr(entry.replace(f"-{old}.", f"-{version}."), content)
    for wheel in house.glob("*.whl"):
        if wheel != original:
            os.link(wheel, made / wheel.name)
    seal(made)
    return made


def seal(house: Path) -> None:
    """Write SHA256SUMS."""
    wheels = sorted(house.glob("*.whl"))
    (house / "SHA256SUMS").write_text(
        "".join(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n" for wheel in wheels)
    )


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=MAKE, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
