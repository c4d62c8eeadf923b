"""`scripts/build_notebooks.py` runs the sources and writes the notebooks."""

import importlib.util

import pytest
from notebook_rules import ROOT, code_cells, its_metadata_is_the_same_everywhere, read, texts


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """`scripts/build_notebooks.py`, building from `tmp_path/source` to `tmp_path`."""
    spec = importlib.util.spec_from_file_location("build_notebooks", ROOT.parent / "scripts" / "build_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(module, "SOURCES", tmp_path / "source")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "07_a.py").write_text(
        "# %% [markdown]\n# # 07 · A lesson\n\n# %%\nprint(10)\n\n# %%\nimport time\n\ntime.sleep(0.5)\n"
    )
    return module


def test_a_built_notebook_stores_outputs_and_no_times(builder, tmp_path):
    notebook = read(builder.build(tmp_path / "source" / "07_a.py"))
    assert texts(code_cells(notebook)[0]) == ["10\n"]
    assert its_metadata_is_the_same_everywhere(notebook) == []


def test_a_notebook_with_a_cell_that_takes_too_long_is_not_built(builder, tmp_path, monkeypatch):
    assert builder.MAX_SECONDS == 10
    monkeypatch.setattr(builder, "MAX_SECONDS", 0.4)
    with pytest.raises(SystemExit, match=r"^07_a\.py: \d\.\d s, allowed are 0\.4: 'import time") as error:
        builder.build(tmp_path / "source" / "07_a.py")
    assert len(str(error.value).splitlines()) == 1  # the other cell is quick
    assert not (tmp_path / "07_a.ipynb").exists()


def test_only_the_cell_with_the_tag_of_training_may_take_longer(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "MAX_SECONDS", 0.4)
    source = tmp_path / "source" / "07_a.py"
    slow = source.read_text().replace("# %%\nimport time", '# %% tags=["training"]\nimport time')
    source.write_text(slow)
    builder.build(source)
    source.write_text(slow + "\n# %%\ntime.sleep(0.6)\n")
    with pytest.raises(SystemExit, match=r"^07_a\.py: \d\.\d s, allowed are 0\.4: 'time\.sleep\(0\.6\)'$"):
        builder.build(source)
