#!/usr/bin/env bash
# transformers gives frames of a video with an uneven rate wrong times, and picks wrong frames "per second".
#
# Versions: transformers 5.23.0, av 18.1.0, numpy 2.4.6. Seen 2026-12-01 with Python 3.11 on Linux.
#
# A screen recording: ten frames per second for 12 seconds, nothing new for a minute, ten per second for 12 seconds.
#   load_video(path, fps=1, backend="pyav")
# returns 84 frames. Every tenth of them, by VideoMetadata.timestamps and by the file:
#   told: 0.0, 9.8, 19.9, 29.8, 39.9, 49.7, 59.9, 70.0, 79.8
#   true: 0.0, 2.8,  5.7,  8.5, 11.4, 74.2, 77.1, 80.0, 82.8
# So times are up to 30 seconds away. The seconds in which something moves give 3 or 4 frames each instead of one, and
# the minute in which one picture is on the screen gives none.
#
# The documentation says otherwise: `VideoMetadata.timestamps` is "Timestamps of the sampled frames in seconds", and the
# argument `fps` of `load_video` is the number of frames to sample per second. Both divide a frame's number by the
# average rate, so they hold for a constant rate only. Models that write times into the prompt write these.
# Source: https://huggingface.co/docs/transformers/main/en/internal/video_utils (load_video, VideoMetadata).
#
# Exits 0 if this is still so, and not 0 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 av==18.1.0 numpy==2.4.6 pillow==12.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from fractions import Fraction

import av
import numpy as np
from transformers.video_utils import load_video

milliseconds = [start + 100 * number for start in (0, 72_000) for number in range(120)]
with av.open("screen.mp4", "w") as container:
    stream = container.add_stream("mpeg4", rate=10, width=64, height=64)
    stream.codec_context.time_base = Fraction(1, 1000)
    for number, time in enumerate(milliseconds):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
        frame.pts, frame.time_base = time, Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
with av.open("screen.mp4") as container:
    true = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]

video, metadata = load_video("screen.mp4", fps=1, backend="pyav")
indices = [int(index) for index in metadata.frames_indices]
told = [float(time) for time in metadata.timestamps]
real = [true[index] for index in indices]
error = max(abs(a - b) for a, b in zip(told, real, strict=True))
print(len(indices), "frames; every tenth of them:")
print("told:", [round(time, 1) for time in told[::10]])
print("true:", [round(time, 1) for time in real[::10]])
print("largest error:", round(error, 1), "seconds")
assert error > 20, "the times are right now"
PYTHON
