"""Make the text of an exercise and of its solution from one source, which holds both between marks.

    def double(x):
        ### BEGIN SOLUTION
        return 2 * x
        ### STUB
        # return None
        ### END SOLUTION

The solution keeps the lines from BEGIN to STUB, so the source as it stands is Python that solves the exercise. The
exercise keeps the lines from STUB to END. In a code cell they are comments, and one `# ` is removed from each; in a
markdown cell every line is a comment, so both parts are kept as they are. Either part may be empty. A region lies in
one cell. BEGIN and END are those of nbgrader, which has one stub for all regions.

This module turns text into text. It knows nothing about notebooks.
"""

import re

VERSIONS = ("exercises", "solutions")
BEGIN, STUB, END = "### BEGIN SOLUTION", "### STUB", "### END SOLUTION"
# (version that the lines belong to, None for both; mark) -> version that the next lines belong to
NEXT = {(None, BEGIN): "solutions", ("solutions", STUB): "exercises", ("exercises", END): None}
MISPLACED = {
    (None, STUB): f"{STUB} without {BEGIN}",
    (None, END): f"{END} without {BEGIN}",
    ("solutions", BEGIN): f"{BEGIN} inside a solution",
    ("solutions", END): f"{END} without {STUB}",
    ("exercises", BEGIN): f"{BEGIN} inside a stub",
    ("exercises", STUB): f"second {STUB}",
}


class MarkError(ValueError):
    """A mark that is misspelled, misplaced or missing. The message begins with `file:line`."""


def render(text: str, version: str, name: str) -> str:
    """The text of one of `VERSIONS`; `name` is the file that a `MarkError` names."""
    kept, part, is_code = [], None, True
    for number, line in enumerate([*text.splitlines(), "# %%"], start=1):
        place = f"{name}:{number}"
        if line.startswith("# %%"):
            if part is not None:
                raise MarkError(f"{place}: the cell ends without {END}")
            is_code = "[markdown]" not in line
        if line.lstrip().startswith("###"):
            part = after_mark(part, line.strip(), place)
        elif part in (None, version):
            kept.append(uncommented(line, place) if is_code and part == "exercises" else line)
    return "\n".join(kept[:-1]) + "\n"


def after_mark(part: str | None, mark: str, place: str) -> str | None:
    """The version that the lines after a mark belong to."""
    if (part, mark) not in NEXT:
        raise MarkError(f"{place}: {MISPLACED.get((part, mark), f'unknown mark {mark!r}')}")
    return NEXT[part, mark]


def uncommented(line: str, place: str) -> str:
    """A line of a stub as code: without its `# `."""
    if line.strip() and not line.lstrip().startswith("#"):
        raise MarkError(f"{place}: a line of a stub is a comment, as in '# return None'")
    return re.sub(r"^( *)# ?", r"\1", line)
