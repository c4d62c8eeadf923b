"""Settings that turn a video into frames, pixels and tokens, and the frame geometry that follows from them.

`VideoConfig` holds the settings that are saved with a model, so that evaluation and chat do what training did.
`FrameSpec` holds the values that follow from them for one model; `model.geometry` computes it. Both are immutable. This
module imports neither torch nor transformers.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

from fvv_lib.errors import FvvError, ModelFolderError

VIDEO_CONFIG_NAME = "fvv_config.json"


def is_hub_name(path: str | Path) -> bool:
    """Return whether a path does not exist here and has the form of a Hub name, owner/name."""
    return not Path(path).exists() and str(path).count("/") == 1 and not str(path).startswith((".", "/"))


CHOICES = {
    "frame_sampling": ("uniform", "segment", "random", "uniform_time", "fps"),
    "time_marks": ("none", "seconds"),
    "time_origin": ("segment", "file"),
    "video_backend": ("auto", "pyav", "decord"),
    "image_aspect_ratio": ("pad", "crop", "resize"),
    "mismatch": ("exact", "tolerant", "strict"),
    "bad_samples": ("raise", "skip"),
}


def check_choices(settings: Any) -> None:
    """Raise an FvvError if a field of these settings is not one of its `CHOICES`."""
    for name, allowed in CHOICES.items():
        value = getattr(settings, name, allowed[0])
        if value not in allowed:
            raise FvvError(f"Unknown {name} {value!r}: choose one of {', '.join(allowed)}.")


def check_limits(max_frames: int | None, min_frames: int | None) -> None:
    """Raise an FvvError if these are no limits of a number of frames."""
    for name, value in (("max_frames", max_frames), ("min_frames", min_frames)):
        if value is not None and (type(value) is not int or value < 1):
            raise FvvError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if min_frames is not None and max_frames is None:
        raise FvvError(f"min_frames={min_frames} needs a max_frames: without one, every clip has num_video_frames.")
    if max_frames is not None and min_frames is not None and min_frames > max_frames:
        raise FvvError(f"min_frames={min_frames} is more than max_frames={max_frames}.")


def is_rate(value: Any) -> TypeGuard[float]:
    """Return whether this is a number of frames per second: above 0, finite, not a bool or a text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def check_sampling(settings: Any) -> None:
    """Raise an FvvError if the settings of `fps` sampling are wrong or would do nothing."""
    check_limits(settings.max_frames, settings.min_frames)
    if not is_rate(settings.sample_fps):
        raise FvvError(f"sample_fps must be a number of frames per second above 0, got {settings.sample_fps!r}.")
    of_fps = {"sample_fps": 1.0, "max_frames": None, "min_frames": None}  # and their defaults
    changed = [name for name, default in of_fps.items() if getattr(settings, name) != default]
    if changed and settings.frame_sampling != "fps":
        raise FvvError(
            f"{changed[0]} would do nothing: frame_sampling is {settings.frame_sampling!r}. Set it to 'fps', or leave "
            f"{changed[0]} out."
        )
    if settings.max_frames is not None and settings.num_video_frames != type(settings).num_video_frames:
        raise FvvError("num_video_frames would do nothing: the number of frames is up to max_frames. Leave one out.")


def check_marks(settings: Any) -> None:
    """Raise an FvvError if `time_origin` would do nothing."""
    if settings.time_origin != "segment" and settings.time_marks == "none":
        raise FvvError(
            f"time_origin={settings.time_origin!r} would do nothing: time_marks is 'none'. Set it to 'seconds', or "
            "leave time_origin out."
        )


def frames_setting(settings: Any) -> str:
    """Return the name of the setting that limits the number of frames of a video."""
    return "num_video_frames" if settings.max_frames is None else "max_frames"


def sampling_of(settings: Any) -> dict[str, Any]:
    """Return the arguments of `read_media` that say which frames are read, from a `VideoConfig` or `DataArguments`."""
    return {
        "num_frames": settings.num_video_frames,
        "strategy": settings.frame_sampling,
        "sample_fps": settings.sample_fps,
        "max_frames": settings.max_frames,
        "min_frames": settings.min_frames,
    }


def deterministic_sampling(strategy: str) -> str:
    """Return the strategy outside of training: `random` becomes `segment`, the middle of each part (TSN)."""
    return "segment" if strategy == "random" else strategy


@dataclass(frozen=True)
class VideoConfig:
    """How training samples, prepares and prompts videos. Evaluation and chat must do the same.

    Saved as `fvv_config.json` beside `config.json`. A setting that an older file does not have gets its default. The
    defaults are FastVLM's.

    Attributes:
        num_video_frames: number of frames per video.
        frame_sampling: which frames are read, see `sample_frame_indices`.
        image_aspect_ratio: how a frame becomes a square, see `preprocess_frames`.
        version: the chat template, see `conversation_templates`.
        image_mean, image_std: normalise pixels after they are scaled to [0, 1].
        time_marks: the text before each frame, see `expand_image_tokens`.
        sample_fps, max_frames, min_frames: of `fps` sampling. With `max_frames`, a video has as many frames as its
            length gives, and `num_video_frames` is not used.
        time_origin: where time marks count from, see `marked_times`.
        frame_pool: side of the squares of tokens that are averaged; 1: no pooling.

    Raises:
        FvvError: a setting does not accept a value. The message names both.

    Lesson: 04.
    """

    num_video_frames: int = 8
    frame_sampling: str = "uniform"
    image_aspect_ratio: str = "pad"
    version: str = "qwen_2"
    image_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    image_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    time_marks: str = "none"
    frame_pool: int = 1
    time_origin: str = "segment"
    sample_fps: float = 1.0
    max_frames: int | None = None
    min_frames: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_sampling(self)
        for name in ("num_video_frames", "frame_pool"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise FvvError(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}.")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise FvvError(f"{name} must be three numbers, got {getattr(self, name)}.")

    @property
    def inference_sampling(self) -> str:
        """The sampling strategy outside of training, see `deterministic_sampling`."""
        return deterministic_sampling(self.frame_sampling)

    @property
    def background(self) -> tuple[int, int, int]:
        """The padding colour, RGB, 0 to 255: the mean, so that padding is near 0 after normalisation."""
        red, green, blue = (int(255 * mean) for mean in self.image_mean)
        return red, green, blue

    def save(self, folder: str | Path) -> None:
        """Write `fvv_config.json` to a folder."""
        text = json.dumps(asdict(self), indent=2)
        (Path(folder) / VIDEO_CONFIG_NAME).write_text(text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "VideoConfig | None":
        """Return the configuration of a folder or Hub name, `None` if there is none.

        Raises:
            ModelFolderError: the file is not a valid configuration.
        """
        file: Path | str = Path(folder) / VIDEO_CONFIG_NAME
        if is_hub_name(folder):
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError

            try:
                file = hf_hub_download(str(folder), VIDEO_CONFIG_NAME)
            except EntryNotFoundError:  # also raised without a network if the file is not cached
                return None
        if not Path(file).is_file():
            return None
        try:
            stored = json.loads(Path(file).read_text())
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError, FvvError) as error:
            raise ModelFolderError(f"{file}: not a video configuration ({error}). Restore or delete it.") from error


@dataclass(frozen=True)
class FrameSpec:
    """The size of a frame for one model. `model.geometry.make_frame_spec` computes it.

    Attributes:
        image_size: side of a frame in pixels; frames are square.
        tokens_per_frame: positions per frame in the language model, after pooling.
        max_length: maximum positions of a sample, frames included.
        background: padding colour, RGB, 0 to 255.
    """

    image_size: int
    tokens_per_frame: int
    max_length: int
    background: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        for name in ("image_size", "tokens_per_frame", "max_length"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise FvvError(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}.")
