"""The errors that users meet, in one family.

A message says what is wrong and with what: which file, sample or setting. Where something can be done about it, the
message ends with that. `except FvvError` catches whatever this library refuses: data, settings and arguments that it
cannot use. What torch or transformers refuse keeps its own type. This module knows nothing about the others.
"""


class FvvError(ValueError):
    """Base of every error that this library raises on purpose."""


class FlagError(FvvError):
    """A flag, or a line of a YAML file, that a verb does not take."""


class VideoDecodeError(FvvError):
    """A picture or video cannot be read: missing, damaged, too large, or without a frame in the time asked for."""


class TokenBudgetError(FvvError):
    """A sample, or the length asked for, is more than the model may read; nothing is ever cut to fit."""


class LabelMismatchError(FvvError):
    """Labels cannot be found as asked, or would teach nothing."""


class DataFormatError(FvvError):
    """An annotation file, a sample, a batch or the name of a chat template is not as it must be."""


class ModelFolderError(FvvError):
    """A model folder is missing or incomplete, or is not of a kind that can be loaded."""


class CheckpointError(FvvError):
    """A run cannot go on from its checkpoint, or has ended with other settings."""
