"""Several processes that do one thing together, such as those that torchrun starts."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import distributed

from fvv_lib.errors import FvvError

T = TypeVar("T")


def process_count() -> int:
    """Return the number of processes that work together: 1 without torchrun."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if process_count() > 1 else 0


def tell_all(find: Callable[[], T]) -> T:
    """Wait for all processes, then call `find` on the first. Return its result, or raise its FvvError, on all."""
    if process_count() == 1:
        return find()
    distributed.barrier()
    found: list[Any] = [None]
    if process_rank() == 0:
        try:
            found = [find()]
        except FvvError as error:
            found = [error]
    distributed.broadcast_object_list(found)
    if isinstance(found[0], FvvError):
        raise found[0]
    return cast(T, found[0])
