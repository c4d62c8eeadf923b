"""Compare free texts with the expected ones by measures of sacrebleu.                                      Lesson 7

The library is optional (the extra `scores`). A measure is no test of truth: it counts common words.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fvv_lib.errors import FvvError

MEASURES = {"bleu": "corpus_bleu", "chrf": "corpus_chrf"}  # and their functions in sacrebleu


def compare_texts(measures: Sequence[str], answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Return the value of each measure over all answers, 0 to 100, under its name and the version of the library.

    Raises:
        FvvError: see `check_measures`.

    Source: Post, A Call for Clarity in Reporting BLEU Scores, 2018. Lesson: 07.
    """
    check_measures(measures)
    if not measures:
        return {}
    import sacrebleu

    return {
        f"{name} (sacrebleu {version('sacrebleu')})": getattr(sacrebleu, MEASURES[name])(answers, [expected]).score
        for name in measures
    }


def check_measures(measures: Sequence[str]) -> None:
    """Check that measures are known and that their library is installed.

    Raises:
        FvvError: names the measure and the remedy.
    """
    for name in measures:
        if name not in MEASURES:
            raise FvvError(f"Unknown score {name!r}: choose one of {', '.join(MEASURES)}.")
        try:
            version("sacrebleu")
        except PackageNotFoundError as error:
            raise FvvError(
                f'scores {name} needs sacrebleu, which is not installed: pip install -c constraints.txt -e ".[scores]".'
            ) from error
