"""Where a result comes from: versions, commit, hardware, and a digest of this package's code.

A record stores these beside a result, so that the result can be explained and reproduced. Caches use the digest, so
that they never return what other code wrote. This module knows nothing about training.
"""

import hashlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fvv_lib.errors import FvvError

PACKAGE = Path(__file__).parent
PACKAGES = ("fvv_lib", "torch", "transformers", "timm", "accelerate", "peft", "deepspeed", "av", "numpy")


@cache
def code_digest(*modules: str) -> str:
    """Return a digest of the source of this package, by default of all rooms. A cache with another digest is not read.
    The source is read once: later changes to it do not run in this process.

    Args:
        modules: glob patterns without `.py`, like `data/annotations` or `video/**/*`; default: all modules.

    Raises:
        FvvError: no module has one of these names. (A digest of nothing would never change.)
    """
    digest = hashlib.blake2b()
    for pattern in modules or ("**/*",):
        files = sorted(PACKAGE.glob(f"{pattern}.py"))
        if not files:
            raise FvvError(f"{pattern!r}: no module of {PACKAGE.name} has this name.")
        for file in files:
            digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def digest_file(path: str | Path) -> str:
    """Return a digest of the bytes of a file, 32 hexadecimal digits. An OSError is not converted."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of these packages, if they are installed; default: those that can affect a
    result."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """Return the commit of a folder's repository, with "+" if tracked files differ from it; `None` if there is none."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed else commit


def hardware() -> dict[str, Any]:
    """Return the cores and memory of this machine, and the names of its GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"machine": platform.machine(), "cores": os.cpu_count(), "memory_gib": round(gib, 1), "gpus": gpus}


def peak_memory_gib() -> float:
    """Return the peak memory of this process in GiB: on its GPU, or resident memory if there is no GPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():  # getrusage may return the parent's peak
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
