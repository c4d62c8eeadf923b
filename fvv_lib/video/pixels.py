"""Convert frames to pixel tensors: pad, crop or resize all frames of a clip in one batch.                 Lesson 1

Pixels stay uint8 until they reach the model's device: a quarter of the bytes through the data loader and over PCIe.
The encoder scales them to [0, 1] and normalizes them. This module knows nothing about models or tokens.
"""

import math

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from fvv_lib.errors import FvvError
from fvv_lib.video.frames import VideoFrames
from fvv_lib.video_config import CHOICES, FrameSpec

ASPECT_RATIOS = CHOICES["image_aspect_ratio"]


def preprocess_frames(
    frames: np.ndarray,
    size: int,
    aspect_ratio: str = "pad",
    background: tuple[int, int, int] = (0, 0, 0),
    pixel_aspect: float = 1,
) -> torch.Tensor:
    """Fit frames into a square: uint8 (N, H, W, 3) -> uint8 (N, 3, size, size), contiguous.

    Args:
        size: the side of the square in pixels.
        aspect_ratio: `pad` puts the whole frame on a square of the background (as Apple trained FastVLM); `crop`
            keeps the middle square (a 16:9 frame loses 44 % of its width); `resize` squeezes the frame into the square.
        background: RGB, 0 to 255.
        pixel_aspect: width / height of a pixel, from `VideoFrames`. The frame is shown in its true shape: 96x64 pixels
            of aspect 2 become what 192x64 square pixels become.

    Raises:
        FvvError: the frames are not uint8 (N, H, W, 3), `aspect_ratio` is unknown, or `pixel_aspect` is not a number
            above 0.

    Resizing is bicubic with antialiasing, to whole pixels. The described system pads each frame at full size and then
    resizes it, one frame at a time; there the background bleeds into the border of the frame. Lesson: 01.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise FvvError(f"Frames must be uint8 (N, H, W, 3), got {frames.dtype} {frames.shape}.")
    if aspect_ratio not in ASPECT_RATIOS:
        raise FvvError(f"Unknown image_aspect_ratio {aspect_ratio!r}: choose one of {', '.join(ASPECT_RATIOS)}.")
    if not 0 < pixel_aspect < math.inf:
        raise FvvError(f"pixel_aspect must be a number above 0, got {pixel_aspect!r}.")
    frames = np.require(frames, requirements=["C", "W"])  # copies only if torch would warn
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (N, 3, H, W), still channels-last: resizes twice as fast
    height, width = pixels.shape[-2:]
    if aspect_ratio == "resize":
        return _resize(pixels, size, size).contiguous()
    shown_width = width * pixel_aspect
    scale = size / (max(height, shown_width) if aspect_ratio == "pad" else min(height, shown_width))
    pixels = _resize(pixels, max(round(height * scale), 1), max(round(shown_width * scale), 1))
    if aspect_ratio == "crop":
        return transforms.center_crop(pixels, [size, size]).contiguous()
    top, left = (size - pixels.shape[-2]) // 2, (size - pixels.shape[-1]) // 2
    square = torch.tensor(background, dtype=torch.uint8).reshape(1, 3, 1, 1).repeat(len(pixels), 1, size, size)
    square[:, :, top : top + pixels.shape[-2], left : left + pixels.shape[-1]] = pixels
    return square


def pixels_of(video: VideoFrames, spec: FrameSpec, aspect_ratio: str) -> torch.Tensor:
    """Return the frames of a video as the model expects them, uint8 (T, 3, size, size); see `preprocess_frames`."""
    return preprocess_frames(video.frames, spec.image_size, aspect_ratio, spec.background, video.pixel_aspect)


def _resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return transforms.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
