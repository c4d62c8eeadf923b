"""Make an exercise and its solution from one source, which contains both versions between marks.

    def double(x):
        ### BEGIN SOLUTION
        return 2 * x
        ### STUB
        # return None
        ### END SOLUTION

The solution keeps the lines from BEGIN to STUB, so the source itself is Python code that solves the exercise. The
exercise keeps the lines from STUB to END. In a code cell these lines are comments, and one `# ` is removed from each.
In a markdown cell every line is a comment, so both parts are kept unchanged. Either part may be empty. A region must
lie within one cell. BEGIN and END are the marks of nbgrader, which uses one stub for all regions.

This module converts text to text. It knows nothing about notebooks.
"""

import re

VERSIONS = ("exercises", "solutions")
BEGIN, STUB, END = "### BEGIN SOLUTION", "### STUB", "### END SOLUTION"
# (version of the lines before the mark, None for both; mark) -> version of the lines after it
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
    """Raised for a misspelled, misplaced or missing mark. The message begins with `file:line`."""


def render(text: str, version: str, name: str) -> str:
    """Return the text of one of `VERSIONS`. `name` is the file name for the message of a `MarkError`."""
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
    """Return the version of the lines after a mark."""
    if (part, mark) not in NEXT:
        raise MarkError(f"{place}: {MISPLACED.get((part, mark), f'unknown mark {mark!r}')}")
    return NEXT[part, mark]


def uncommented(line: str, place: str) -> str:
    """Return a line of a stub as code, without its `# `."""
    if line.strip() and not line.lstrip().startswith("#"):
        raise MarkError(f"{place}: a line of a stub must be a comment, such as '# return None'")
    return re.sub(r"^( *)# ?", r"\1", line)
