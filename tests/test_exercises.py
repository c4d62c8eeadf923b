"""Exercises and solutions come from one source. Their checks give a hint to a stub and pass a solution."""

import re
from pathlib import Path

import exercises
import pytest
from notebook_rules import EXERCISES, ROOT, SOLUTIONS, code_cells, markdown, read, texts

SOURCE = """# %% [markdown]
### BEGIN SOLUTION
# # Solutions
### STUB
# # Exercises
#
# ### Three
### END SOLUTION

# %%
### BEGIN SOLUTION
factor = 2


### STUB
### END SOLUTION
def double(x):
    ### BEGIN SOLUTION
    return factor * x
    ### STUB
    # for _ in range(2):
    #     x += 0  # twice

    # # fill in
    # return None
    ### END SOLUTION


print(double(1))
"""
SOLUTION = """# %% [markdown]
# # Solutions

# %%
factor = 2


def double(x):
    return factor * x


print(double(1))
"""
EXERCISE = """# %% [markdown]
# # Exercises
#
# ### Three

# %%
def double(x):
    for _ in range(2):
        x += 0  # twice

    # fill in
    return None


print(double(1))
"""


def test_one_source_gives_a_solution_and_its_exercise():
    assert exercises.render(SOURCE, "solutions", "a.py") == SOLUTION
    assert exercises.render(SOURCE, "exercises", "a.py") == EXERCISE


def test_a_text_without_marks_is_the_same_in_both_versions():
    assert [exercises.render(SOLUTION, version, "a.py") for version in exercises.VERSIONS] == [SOLUTION, SOLUTION]


B, S, E = exercises.BEGIN, exercises.STUB, exercises.END


@pytest.mark.parametrize("version", exercises.VERSIONS)
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["x = 1", S], "2: ### STUB without ### BEGIN SOLUTION"),
        (["x = 1", E], "2: ### END SOLUTION without ### BEGIN SOLUTION"),
        ([B, S, E, E], "4: ### END SOLUTION without ### BEGIN SOLUTION"),
        ([B, "x = 1", B, S, E], "3: ### BEGIN SOLUTION inside a solution"),
        ([B, "x = 1", S, B, E], "4: ### BEGIN SOLUTION inside a stub"),
        ([B, "x = 1", E], "3: ### END SOLUTION without ### STUB"),
        ([B, S, S, E], "3: second ### STUB"),
        ([B, "x = 1"], "3: the cell ends without ### END SOLUTION"),
        ([B, S, "# %% [markdown]", E], "3: the cell ends without ### END SOLUTION"),
        ([B, "x = 1", "### END SOLUTIONS"], "3: unknown mark '### END SOLUTIONS'"),
        (["    ###BEGIN SOLUTION"], "1: unknown mark '###BEGIN SOLUTION'"),
    ],
)
def test_the_error_for_a_wrong_mark_names_the_line(version, lines, said):
    with pytest.raises(exercises.MarkError) as error:
        exercises.render("\n".join(lines), version, "a.py")
    assert str(error.value) == f"a.py:{said}"


def test_the_error_for_a_stub_without_comment_names_the_line():
    with pytest.raises(exercises.MarkError, match=r"^a\.py:3: a line of a stub must be a comment"):
        exercises.render(f"{B}\n{S}\nx = 1\n{E}\n", "exercises", "a.py")


@pytest.mark.parametrize(
    ("path", "verdict"),
    [(path, r"not yet: \S.*\n") for path in EXERCISES] + [(path, "passed\n") for path in SOLUTIONS],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else "",
)
def test_checks_print_not_yet_for_a_stub_and_passed_for_a_solution(path, verdict):
    """Read the stored outputs. nbval compares them with the outputs of a run."""
    notebook = read(path)
    verdicts = ["".join(texts(cell)) for cell in code_cells(notebook) if cell.source.startswith("# Check")]
    exercises = len(re.findall(r"^## Exercise \d+", markdown(notebook), re.M))
    assert len(verdicts) == exercises
    assert all(re.fullmatch(verdict, said) for said in verdicts), verdicts
