"""The part of the machine that this process may use."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use.

    Under `taskset`, Slurm or a container's CPU set, these are fewer than the machine has.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
