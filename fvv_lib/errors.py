"""The errors that users meet, in one family.

Each message names the file or the sample, says what is wrong, and ends with what to do. A bare `except FvvError`
therefore catches everything that is wrong with someone's data or settings, and nothing that is wrong with the code.
"""


class FvvError(ValueError):
    """Base of every error that this library raises on purpose."""


class VideoDecodeError(FvvError):
    """A picture or video file is missing, is not what its name says, or can not be decoded without loss."""


class TokenBudgetError(FvvError):
    """A sample is longer than the model may read, and an answer or an image would have to be cut."""


class LabelMismatchError(FvvError):
    """The labels of a sample do not cover what the template says they should."""


class DataFormatError(FvvError):
    """An annotation file or one of its samples is not well-formed."""


class CheckpointError(FvvError):
    """A checkpoint folder is incomplete, or is not of a kind that can be loaded."""
