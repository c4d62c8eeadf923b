"""Divide samples into training, validation and test data by the content of their videos.                   Lesson 5

Samples that share a file, a copy of a file, or a group stay together. This module knows nothing about formats.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fvv_lib.data.known import FILE, Findings, find_in_files, look
from fvv_lib.errors import DataFormatError
from fvv_lib.provenance import digest_file


def digests_of(media: Iterable[str], folder: Path, cache_dir: str | None) -> dict[str, tuple[str, ...]]:
    """Return digests of the content of media, by path: of a file, of each file of a folder, of the text of a URL.

    A file is read once; its digest is remembered until it changes.
    """
    files: dict[str, list[str]] = {}
    for name in media:
        path = os.path.join(folder, name)
        files[name] = [path]
        if os.path.isdir(path):
            files[name] = sorted(entry.path for entry in os.scandir(path) if entry.is_file())
    paths = sorted({path for some in files.values() for path in some})
    column = pa.array(list(map(os.fsencode, paths)), pa.large_binary())
    looks = look(column.to_pylist())
    findings = Findings(cache_dir, "content", "blake2b")
    found = find_in_files(findings, column, looks, _digest, looks.kinds == FILE)
    digests = {
        path: one or hashlib.blake2b(path.encode()).hexdigest()[:32] for path, one in zip(paths, found, strict=True)
    }
    return {name: tuple(digests[path] for path in some) for name, some in files.items()}


def _digest(path: str) -> str | None:
    try:
        return digest_file(path)
    except OSError:
        return None


class Bound:
    """Keys that belong together because a sample has several of them (a union of sets)."""

    def __init__(self) -> None:
        self.above: dict[str, str] = {}

    def first(self, key: str) -> str:
        """Return the smallest key that is bound to this one."""
        root = key
        while (above := self.above.setdefault(root, root)) != root:
            root = above
        while self.above[key] != root:
            self.above[key], key = root, self.above[key]
        return root

    def bind(self, keys: Sequence[str]) -> None:
        roots = sorted(set(map(self.first, keys)))
        for root in roots[1:]:
            self.above[root] = roots[0]


def divide(keys: Sequence[Sequence[str]], strata: Sequence[str], shares: Mapping[str, float], seed: int) -> np.ndarray:
    """Return the split of each sample: 0 for training, 1 for the first of `shares`, ...: uint8 (N,).

    Samples with a common key are in one split. Each split gets its share of the samples of each stratum, as near as
    whole videos allow. The result depends on the samples and the seed, not on their order.

    Args:
        keys: what identifies the media and the group of each sample; at least one each.
        strata: the class of each sample.

    Raises:
        DataFormatError: there are too few videos for a split.
    """
    bound = Bound()
    for some in keys:
        bound.bind(some)
    parts = [bound.first(some[0]) for some in keys]
    sizes = Counter(parts)
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for part, stratum in zip(parts, strata, strict=True):
        classes[part][stratum] += 1
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for part, counts in classes.items():
        by_stratum[min(counts, key=lambda stratum: (-counts[stratum], stratum))].append(part)
    chosen: dict[str, int] = {}
    owed = dict.fromkeys(shares, 0.0)
    for stratum in sorted(by_stratum):
        rest = sorted(by_stratum[stratum], key=lambda part: hashlib.blake2b(f"{seed} {part}".encode()).digest())
        total = sum(sizes[part] for part in rest)
        for number, (name, share) in enumerate(shares.items(), 1):
            owed[name] += share * total
            while rest and owed[name] >= sizes[rest[0]] / 2:
                owed[name] -= sizes[rest[0]]
                chosen[rest.pop(0)] = number
    splits = np.array([chosen.get(part, 0) for part in parts], np.uint8)
    for number, name in enumerate(["training", *shares]):
        if not (splits == number).any():
            raise DataFormatError(
                f"There are too few videos: {len(sizes)} of different content or group leave none for {name}. Give it "
                "a larger share, or more videos."
            )
    return splits
