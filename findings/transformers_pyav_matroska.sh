#!/usr/bin/env bash
# transformers' PyAV backend cannot read a Matroska or WebM video: it takes it for a video of 0 frames.
#
# Versions: transformers 5.23.0, av 18.1.0, numpy 2.4.6. Seen 2026-12-01 with Python 3.11 on Linux.
#
# The same 20 frames, stored as .mp4 and as .webm:
#   load_video("clip.mp4", num_frames=8, backend="pyav")    8 frames
#   load_video("clip.webm", num_frames=8, backend="pyav")   ValueError: the requested number of frames exceeds
#                                                           total_num_frames=0. Please set num_frames or fps to a
#                                                           smaller value.
# The remedy in the message does not help, because every number is larger than 0. MP4 has a table of its frames.
# Matroska and WebM have none, and FFmpeg then reports 0 for "number of frames, if known" (AVStream.nb_frames). The
# backend takes this 0 for the length of the clip.
#
# The documentation says otherwise: `load_video` "loads `video` to a numpy array" with the backend `pyav` for any video,
# and does not name containers. FFmpeg's documentation of nb_frames: "number of frames in this stream if known or 0".
# Source: https://huggingface.co/docs/transformers/main/en/internal/video_utils (load_video)
#
# Exits 0 if this is still so, and not 0 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 av==18.1.0 numpy==2.4.6 pillow==12.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import av
import numpy as np
from transformers.video_utils import load_video

for name, codec in (("clip.mp4", "mpeg4"), ("clip.webm", "libvpx")):
    with av.open(name, "w") as container:
        stream = container.add_stream(codec, rate=10, width=64, height=64)
        stream.pix_fmt = "yuv420p"
        for number in range(20):
            picture = np.full((64, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(name) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20

video, _ = load_video("clip.mp4", num_frames=8, backend="pyav")
print("clip.mp4:", len(video), "frames")
assert len(video) == 8
try:
    load_video("clip.webm", num_frames=8, backend="pyav")
except ValueError as error:
    print("clip.webm:", error)
    assert "total_num_frames=0" in str(error), error
else:
    raise SystemExit("clip.webm is read now")
PYTHON
