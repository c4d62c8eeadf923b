"""What this process may use of the machine."""

import os


def usable_cores() -> int:
    """How many cores this process may use. Under `taskset`, Slurm or a container's CPU set they are fewer than the
    machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
