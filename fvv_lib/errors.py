"""The errors of this library, in one family.

A message names the file, sample or setting and says what is wrong with it. If there is a remedy, the message ends with
it. `except FvvError` catches everything that this library refuses: data, settings and arguments that it cannot use.
Errors of torch and transformers keep their own types. This module knows nothing about the other modules.
"""


def reason_of(error: Exception) -> str:
    """Return why something failed, in one line. The text of an OSError names the file, which the message names too."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())


class FvvError(ValueError):
    """Base of every error that this library raises on purpose."""


class FlagError(FvvError):
    """A verb does not accept a flag or a line of a YAML file."""


class VideoDecodeError(FvvError):
    """An image or video cannot be read: missing, damaged, too large, or without a frame in the requested time."""


class TokenBudgetError(FvvError):
    """A sample or a requested length is more than the model may read. Samples are never truncated."""


class LabelMismatchError(FvvError):
    """Labels cannot be found as requested, or no token would be learned."""


class DataFormatError(FvvError):
    """An annotation file, a sample, a batch or the name of a chat template is not valid."""


class NotKeptError(DataFormatError):
    """A record of another format cannot become a sample, because it has something that training cannot use. Formats
    raise it with what it has, for counting: `tool calls`, `audio`, `boxes`, ..."""


class ModelFolderError(FvvError):
    """A model folder is missing, incomplete, or of a kind that cannot be loaded."""


class CheckpointError(FvvError):
    """A run cannot resume from its checkpoint, or has ended with other settings."""
