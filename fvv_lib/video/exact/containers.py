"""Open a file as a container of video, and choose the stream that a player shows.                          Lesson 1

FFmpeg opens more than videos: playlists, scripts and name patterns, each of which makes it open other files or
addresses. Here only the formats that hold the video themselves are opened, and of those only local files. This module
decodes nothing.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fvv_lib.errors import VideoDecodeError

if TYPE_CHECKING:
    import av

# FFmpeg's names. Each of these formats holds its video itself. Not here: hls, dash, concat, sdp, rtsp, imf, lavfi and
# all others that name what they show; image2 (patterns like %d); and pictures, which Pillow reads.
CONTAINERS = (
    *("mov", "matroska", "avi", "flv", "asf", "mpegts", "mpeg", "ogg", "mxf", "rm", "nut", "gxf", "wtv", "nsv", "dv"),
    *("ivf", "yuv4mpegpipe", "mpegvideo", "m4v", "h264", "hevc", "vvc", "obu", "av1", "vc1", "mjpeg", "h263", "dirac"),
)
# FFmpeg decodes the first frames of a file that it opens, to learn what the header does not tell; here it may not.
NO_PROBE = {"codec_whitelist": "none"}


def open_container(path: Path, options: dict[str, str] | None = None) -> "av.container.InputContainer":
    """Open a local file, whatever is in its name: with `file:` before it, a colon makes no protocol of it.

    Args:
        options: of FFmpeg, beside those that keep it from opening anything else.

    Raises:
        VideoDecodeError: its content is none of `CONTAINERS`. Nothing that it names has been opened then.
        av.FFmpegError: whatever else FFmpeg says against the file.
    """
    import av

    allowed = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    try:
        return av.open(f"file:{path}", metadata_errors="replace", options={**(options or {}), **allowed})
    except av.ArgumentError as error:  # FFmpeg's for a format that is not on the list
        raise VideoDecodeError(
            f"{path}: its content is no container of video; playlists, scripts and pictures are not opened as videos. "
            "Give the video itself, or the picture under its true extension."
        ) from error


def video_streams(container: "av.container.InputContainer") -> list["av.VideoStream"]:
    """The streams that are video, and not the cover picture of an album or a row of thumbnails."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & pictures]


def choose_stream(
    path: Path, container: "av.container.InputContainer", streams: list["av.VideoStream"]
) -> "av.VideoStream":
    """The stream that FFmpeg chooses among several: first of all, one that the file calls its default.

    It is always chosen in a file that was opened without decoding, so that every read of a file has the same one:
    what FFmpeg knows of the streams depends on what it has decoded of them.
    """
    from av.stream import Disposition

    if len(streams) == 1:
        return streams[0]
    with open_container(path, NO_PROBE) as unprobed:
        best = unprobed.streams.best("video")
        index = -1 if best is None else best.index
    for stream in streams:
        if stream.index == index:
            return stream
    return max(streams, key=lambda stream: bool(stream.disposition & Disposition.default))  # FFmpeg's is a cover


def is_container(path: str | Path) -> bool:
    """Tell by its content whether a file is a container with a video in it. It decodes nothing."""
    import av

    if not os.path.isfile(path):
        return False
    try:
        with open_container(Path(path), NO_PROBE) as container:
            return bool(video_streams(container))
    except (av.FFmpegError, VideoDecodeError):
        return False
