"""decord: the reader of the described system, kept for comparison.                                         Lesson 1"""

import numpy as np

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.files import Location, Url
from fvv_lib.video.exact.reader import first_pixel_aspect
from fvv_lib.video.frames import Chooser, Frames


def read_decord(path: Location, choose: Chooser, num_threads: int) -> Frames:
    """Read the chosen frames and the times of all frames with decord.

    decord silently returns wrong frames for most H.264 `.avi`, for MPEG-4 with B-frames and for some `.wmv`.

    The exact reader opens the file first. It refuses a file that is not a container, and returns the pixel aspect,
    which decord does not report.

    Raises:
        FvvError: decord is not installed, or the file is at a URL, which decord cannot open.
        VideoDecodeError: decord cannot decode the file, or the file is not a video container.
    """
    try:
        import decord
    except ImportError as error:
        raise FvvError(
            "decord is not installed (it has no wheels for this machine): use backend='pyav', which is exact."
        ) from error
    if isinstance(path, Url):
        raise FvvError(f"{path}: decord reads only files of this machine: use backend='pyav', or download the file.")
    aspect = first_pixel_aspect(path)
    try:
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=num_threads)
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        indices = choose(times - times[0])
        return Frames(times - times[0], indices, reader.get_batch(indices).asnumpy(), aspect)
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise VideoDecodeError(
            f"{path}: decord cannot decode it ({str(error).splitlines()[0]}). Try backend='pyav'."
        ) from error
