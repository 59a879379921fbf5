"""What the kernel says of other processes: CPU time to the nanosecond, resident memory, and the cores there are."""

import os
import platform
import resource
import time


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads, also those that have ended."""
    return time.clock_gettime(~pid << 3 | 2)  # its CPU clock, as clock_getcpuclockid(3) would name it


def children_cpu_seconds() -> float:
    """The same of all our children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123  # a kernel file
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} is gone")


def machine() -> str:
    """What all this is measured on, in one line."""
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"load before the run {busy}"
    )
