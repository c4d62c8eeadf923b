"""`scripts/build_notebooks.py` runs the sources and writes the notebooks."""

import build_notebooks
import pytest
from notebook_rules import code_cells, its_metadata_is_the_same_everywhere, read, texts

EXERCISE = """# %%
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### STUB
    # return None
    ### END SOLUTION


# %%
print(double(4))
"""


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """`scripts/build_notebooks.py`, building from `tmp_path/source` to `tmp_path`."""
    monkeypatch.setattr(build_notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(build_notebooks, "SOURCES", tmp_path / "source")
    (tmp_path / "source" / "exercises").mkdir(parents=True)
    (tmp_path / "source" / "07_a.py").write_text(
        "# %% [markdown]\n# # 07 · A lesson\n\n# %%\nprint(10)\n\n# %%\nimport time\n\ntime.sleep(0.5)\n"
    )
    return build_notebooks


def test_a_built_notebook_stores_outputs_and_no_times(builder, tmp_path):
    builder.main([tmp_path / "source" / "07_a.py"])
    notebook = read(tmp_path / "07_a.ipynb")
    assert texts(code_cells(notebook)[0]) == ["10\n"]
    assert its_metadata_is_the_same_everywhere(notebook) == []


def test_an_exercise_source_gives_the_exercise_and_its_solution(builder, tmp_path):
    source = tmp_path / "source" / "exercises" / "07_a.py"
    source.write_text(EXERCISE)
    builder.main([source])
    for folder, line, printed in [("exercises", "return None", "None\n"), ("solutions", "return 2 * x", "8\n")]:
        define, call = code_cells(read(tmp_path / folder / "07_a.ipynb"))
        assert define.source == f"def double(x):\n    {line}"
        assert texts(call) == [printed]
    assert not (tmp_path / "07_a.ipynb").exists()


def test_a_wrong_mark_is_reported_before_any_source_runs(builder, tmp_path):
    source = tmp_path / "source" / "exercises" / "07_a.py"
    source.write_text(EXERCISE.replace("    ### STUB\n", ""))
    with pytest.raises(SystemExit, match=r"source/exercises/07_a\.py:6: ### END SOLUTION without ### STUB$"):
        builder.main([tmp_path / "source" / "07_a.py", source])
    assert not list(tmp_path.rglob("*.ipynb"))


def test_a_notebook_with_a_cell_that_takes_too_long_is_not_built(builder, tmp_path, monkeypatch):
    assert builder.MAX_SECONDS == 10
    monkeypatch.setattr(builder, "MAX_SECONDS", 0.4)
    with pytest.raises(SystemExit, match=r"^07_a\.ipynb: \d\.\d s, the limit is 0\.4 s: 'import time") as error:
        builder.main([tmp_path / "source" / "07_a.py"])
    assert len(str(error.value).splitlines()) == 1  # the other cell is fast
    assert not (tmp_path / "07_a.ipynb").exists()


def test_only_a_cell_with_the_training_tag_may_take_longer(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "MAX_SECONDS", 0.4)
    source = tmp_path / "source" / "07_a.py"
    slow = source.read_text().replace("# %%\nimport time", '# %% tags=["training"]\nimport time')
    source.write_text(slow)
    builder.main([source])
    source.write_text(slow + "\n# %%\ntime.sleep(0.6)\n")
    with pytest.raises(SystemExit, match=r"^07_a\.ipynb: \d\.\d s, the limit is 0\.4 s: 'time\.sleep\(0\.6\)'$"):
        builder.main([source])
