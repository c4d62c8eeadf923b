"""Read everything that training will read of images and videos, if it was not read before.                 Lesson 5"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fvv_lib.data.checking import reading_code
from fvv_lib.data.known import Findings
from fvv_lib.data.media_units import MediaUnits
from fvv_lib.video.frames import VideoFrames
from fvv_lib.video.medium import Medium
from fvv_lib.video.read import count_frames

if TYPE_CHECKING:
    from fvv_lib.data.dataset import LazySupervisedDataset

# Settings of DataArguments that do not change which frames are read, nor how.
NOT_READING = {
    *("data_path", "validation_data_path", "test_data_path", "keep_path", "image_folder"),
    *("cache_dir", "cache_features"),
    *("check_media", "check_again", "bad_samples", "time_marks", "time_origin"),
    *("frame_pool", "image_aspect_ratio", "version"),
    *("mismatch", "allow_special_tokens", "max_new_tokens", "eval_questions"),
}


@dataclass(frozen=True)
class MediaFacts:
    """What reading an image or video shows, without its pixels; see `VideoFrames`. `timestamps` are those of the frames
    that were read."""

    total_frames: int
    duration: float
    width: int
    height: int
    timestamps: np.ndarray

    @classmethod
    def of(cls, video: VideoFrames) -> "MediaFacts":
        height, width = video.frames.shape[1:3]
        return cls(video.total_frames, video.duration, width, height, video.timestamps)


class Inspector:
    """Read the images, videos and parts of videos of samples, except those that were read before and have not changed.

    Only what can be read is remembered. A file with an error is read again each time: the cause may be elsewhere, such
    as a busy machine, a permission or a lost connection.

    Attributes:
        counts: `files`, the number of images and videos of the samples; `known`, how many of them were read before.
        done: samples of which nothing must be read, bool (N,).

    Lesson: 05.
    """

    def __init__(self, dataset: "LazySupervisedDataset"):
        if dataset.was_inspected:
            dataset.samples.files.look_again()  # files may have changed since
        dataset.was_inspected = True
        settings = {name: value for name, value in asdict(dataset.data_args).items() if name not in NOT_READING}
        self.dataset, self.units = dataset, MediaUnits(dataset.samples)
        self.looks = self.units.looks
        depends_on = [reading_code("data/inspecting"), settings]
        self.findings = Findings(dataset.data_args.cache_dir, "read", depends_on, dataset.data_args.check_again)
        self.known = self.findings.recall(self.units.paths, self.looks)
        is_known = self.known.is_valid().to_numpy(zero_copy_only=False)
        used = self.units.of_rows(dataset.samples.rows)
        self.counts = {"files": int(used.sum()), "known": int((used & is_known).sum())}
        self.done = self.units.all_of(is_known)[dataset.samples.rows]
        self.is_shared = np.bincount(self.units.places, minlength=len(used)) > 1
        self.shared: dict[int, str] = {}  # what was read now of files that several samples have
        self.decoded: dict[Any, Future[int]] = {}  # whole files of which parts are used
        self.lock = threading.Lock()

    def facts(self, index: int) -> Iterator[MediaFacts]:
        """Yield the facts about each image and video of a sample.

        Raises:
            VideoDecodeError: one cannot be read.
        """
        start = int(self.units.starts[self.dataset.samples.rows[index]])
        for place, medium in enumerate(self.dataset.media(index)):
            yield self._facts(start + place, medium, index, place)

    def _facts(self, position: int, medium: Medium, index: int, place: int) -> MediaFacts:
        file = int(self.units.places[position])
        text = self.shared.get(file) or self.known[file].as_py()
        if text is not None:
            total_frames, duration, width, height, times = json.loads(text)
            return MediaFacts(total_frames, duration, width, height, np.array(times, np.float64))
        facts = MediaFacts.of(self.read_all(medium, index, place))
        text = json.dumps([facts.total_frames, facts.duration, facts.width, facts.height, facts.timestamps.tolist()])
        self.findings.keep(self.units.paths[file].as_py(), self.looks, file, text)
        if self.is_shared[file] and self.looks.settled[file]:
            self.shared[file] = text
        return facts

    def read_all(self, medium: Medium, index: int, place: int) -> VideoFrames:
        """Read an image or video as training does. With `random` sampling, first decode all frames of a video, because
        training uses other frames in each epoch. A file of which several parts are used is decoded once."""
        args = self.dataset.data_args
        decode = partial(count_frames, medium.source, timeout=args.decode_timeout or None)
        if args.frame_sampling == "random" and medium.is_part:
            with self.lock:
                is_first = medium.source not in self.decoded
                decoded = self.decoded.setdefault(medium.source, Future())
            if is_first:
                try:
                    decoded.set_result(decode())
                except BaseException as error:
                    decoded.set_exception(error)
            decoded.result()
        elif args.frame_sampling == "random" and medium.is_video():
            decode()
        return self.dataset.read(medium, index, place)

    def save(self, every: float = 0.0) -> None:
        """Remember what was read, unless that was done less than `every` seconds ago."""
        self.findings.save(every)


def known_files(counts: dict[str, int]) -> str:
    """Say how many files a check does not read, because an earlier one did and they have not changed."""
    return f"{counts['known']:,} of {counts['files']:,} images and videos known from an earlier check"
