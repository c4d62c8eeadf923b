"""Open a file as a video container, and choose the stream that a player shows.                             Lesson 1

FFmpeg opens more than videos: playlists, scripts and name patterns make it open other files or addresses. This module
opens only the file that it is given, in formats that hold the video themselves. It decodes nothing.
"""

from typing import TYPE_CHECKING, BinaryIO

from fvv_lib.errors import VideoDecodeError
from fvv_lib.far import FarFile, hold
from fvv_lib.files import Location, Url, is_file

if TYPE_CHECKING:
    import av

# FFmpeg's names of formats that hold the video themselves. Not included: hls, dash, concat, sdp, rtsp, imf, lavfi and
# others that refer to other files; image2 (patterns like %d); and images, which Pillow reads.
CONTAINERS = (
    *("mov", "matroska", "avi", "flv", "asf", "mpegts", "mpeg", "ogg", "mxf", "rm", "nut", "gxf", "wtv", "nsv", "dv"),
    *("ivf", "yuv4mpegpipe", "mpegvideo", "m4v", "h264", "hevc", "vvc", "obu", "av1", "vc1", "mjpeg", "h263", "dirac"),
    *("evc", "apv", "dnxhd", "cavsvideo", "avs2", "avs3", "smjpeg", "swf", "live_flv", "kux", "dhav", "nuv"),
    *("ty", "pva", "lxf", "cine", "ser", "hxvs", "ifv", "iv8", "sdr2", "filmstrip", "flic", "roq", "smk", "bink"),
    *("h261", "mjpeg_2000", "film_cpk"),
)
# On opening a file, FFmpeg decodes the first frames to learn what the header does not say. This option prevents that.
NO_PROBE = {"codec_whitelist": "none"}
# It still reads 5 seconds of Matroska to learn the frame rate, which can be megabytes. This prevents that too.
BRIEF = NO_PROBE | {"analyzeduration": "1"}  # microsecond


def open_container(path: Location, options: dict[str, str] | None = None) -> "av.container.InputContainer":
    """Open a file of any name. The prefix `file:` keeps a colon in the name from being read as a protocol. Of a file at
    a URL, FFmpeg gets the bytes, not the address; use `hold`, which raises an error of reading them.

    Args:
        options: FFmpeg options, in addition to those that keep it from opening anything else and from changing times.
            By default, FFmpeg takes times that fall back by more than a minute for an overflow of their 33 bits, and
            adds 26.5 hours to all that follow. `packets.Clock` handles both cases.

    Raises:
        VideoDecodeError: the content is none of `CONTAINERS`. Nothing that the file names was opened.
        av.FFmpegError: any other error of FFmpeg.
    """
    import av

    allowed = {
        "format_whitelist": ",".join(CONTAINERS),
        "protocol_whitelist": "none" if isinstance(path, Url) else "file",
        "correct_ts_overflow": "0",
    }
    source = FarFile(path, for_ffmpeg=True) if isinstance(path, Url) else f"file:{path}"
    try:
        return av.open(source, metadata_errors="replace", options={**(options or {}), **allowed})
    except av.ArgumentError as error:  # FFmpeg's error for a format that is not on the list
        raise VideoDecodeError(
            f"{path}: its content is not a video container of a supported format; playlists, scripts and images are "
            "not opened as videos. Encode a video of another format as H.264 in .mp4, pass the video that a playlist "
            "names, or correct the extension of an image."
        ) from error


def open_bytes(path: Location) -> BinaryIO:
    """Open a file for what is read without FFmpeg: headers, indexes, single packets. Nothing is read ahead, since that
    would read most of a file of which only the head of each packet is needed."""
    file: BinaryIO = path.open("rb", buffering=0)
    return file


def video_streams(container: "av.container.InputContainer") -> list["av.VideoStream"]:
    """Return the video streams, without album covers and thumbnail tracks."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic.value | Disposition.timed_thumbnails.value  # numbers: `|` of flags takes 2 µs
    return [stream for stream in container.streams.video if not stream.disposition.value & pictures]


def choose_stream(
    path: Location, container: "av.container.InputContainer", streams: list["av.VideoStream"]
) -> "av.VideoStream":
    """Return the stream that FFmpeg chooses among several. It prefers one that the file marks as default.

    FFmpeg's choice depends on what it has decoded of the streams. So the choice is always made in a file opened without
    decoding, and every read of a file uses the same stream.
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
    return max(streams, key=lambda stream: bool(stream.disposition & Disposition.default))  # FFmpeg chose a cover


def is_container(path: Location) -> bool:
    """Return whether a file is a container with a video stream, by its content. Nothing is decoded."""
    import av

    if not is_file(path):
        return False
    try:
        with hold(path), open_container(path, NO_PROBE) as container:
            return bool(video_streams(container))
    except (av.FFmpegError, VideoDecodeError):
        return False
