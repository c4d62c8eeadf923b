"""Time controls: show the same frames in another order, to find out whether a model uses time.             Lesson 7

Every frame is encoded by itself, so its features are computed once and only their order changes. Time marks stay where
they are: a control changes what is seen at a time, not the times. This module knows nothing about models.
"""

import numpy as np

FORWARDS = "forwards"
CONTROLS = {  # what a control shows in place of the frames of a video
    FORWARDS: "the frames as they are",
    "backwards": "the frames in reverse order",
    "shuffled": "the frames in a random order, the same for all questions about a video",
    "one_frame": "the middle frame in all places",
    "blank": "a grey frame in all places",
}
GREY = 128  # of a blank frame, 0 to 255


def order_of(control: str, count: int, seed: tuple[int, ...]) -> list[int] | None:
    """Return which frame of a video is shown in each of its places, or `None` for blank frames.

    Args:
        control: one of `CONTROLS`.
        count: number of frames.
        seed: of the random order, which is never the true one if there are two frames or more.
    """
    frames = list(range(count))
    if control == FORWARDS:
        return frames
    if control == "backwards":
        return frames[::-1]
    if control == "one_frame":
        return [count // 2] * count
    if control == "blank":
        return None
    random = np.random.default_rng(seed)
    shuffled = frames
    while shuffled == frames and count > 1:
        shuffled = random.permutation(count).tolist()
    return shuffled
