"""Ask a server again where an error may pass, and turn its errors into OSErrors without addresses."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from fvv_lib.errors import FvvError

T = TypeVar("T")

DELAYS = (0.5, 1.0, 2.0, 4.0)  # seconds before an attempt is repeated
PATIENCE = 120.0  # seconds after which no attempt is repeated
NOT_NOW = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may soon be different
DOWNLOAD = "Download the file, and give its path."


def patiently(action: Callable[[], T]) -> T:
    """Return what an action returns. Repeat it after an error that may pass, as often as `DELAYS` says."""
    start = time.monotonic()
    for delay in (*DELAYS, None):
        try:
            return action()
        except FvvError:
            raise
        except Exception as error:  # each file system has types of its own
            reason = _reason(error)
        if delay is None or not isinstance(reason, ConnectionError) or time.monotonic() - start > PATIENCE:
            break
        time.sleep(delay)
    raise reason  # outside of `except`: the messages of the original error may have credentials


def _reason(error: BaseException) -> OSError:
    """Return an error of a file system of fsspec as an OSError without the address. It is a ConnectionError if it may
    pass."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    names = [type(one).__name__ for one in chain]
    status = next(filter(None, map(_status, chain)), None)
    told = f"the server answers {status}" if status else names[-1]
    if status in NOT_NOW:
        return ConnectionError(errno.EIO, f"{told}, also after {len(DELAYS)} more attempts. Try again later")
    if status == 412 or "FileExpired" in names:
        return OSError(errno.EIO, "it changed while it was read. Start again")
    if status in (401, 403) or isinstance(error, PermissionError) or any("Credential" in name for name in names):
        return PermissionError(errno.EACCES, f"{told}: you may not read it. Log in, or sign the address again")
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and status is None and len(chain) == 1):
        return FileNotFoundError(errno.ENOENT, getattr(error, "strerror", None) or "no such file")
    if status is None and any("range requests" in str(one) for one in chain):
        return OSError(errno.EIO, f"the server does not send parts of files. {DOWNLOAD}")
    passing = (ConnectionError, TimeoutError, EOFError)
    if status is None and (any(isinstance(one, passing) for one in chain) or {"ClientError"} & _bases(chain)):
        return ConnectionError(
            errno.EIO, f"no answer ({told}), also after {len(DELAYS)} more attempts. Try again later"
        )
    if isinstance(error, OSError) and error.strerror and len(chain) == 1:
        return error
    return OSError(errno.EIO, told)


def _bases(chain: list[BaseException]) -> set[str]:
    """Return the names of the classes of errors of aiohttp, which may not be installed."""
    return {base.__name__ for one in chain for base in type(one).__mro__ if base.__module__.startswith("aiohttp")}


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp, botocore or huggingface_hub tells."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = getattr(error, "status", None) or getattr(response, "status_code", response)
    return found if isinstance(found, int) else None
