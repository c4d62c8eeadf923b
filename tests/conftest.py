"""Settings of a test run. What tests use is in `shared`; a process that only hands out tests does not load it."""

import gc
import os
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has a core; threads of two would wait for each other
    gc.set_threshold(200_000, 20, 20)  # imports make a million objects that stay: look through them seldom

from hypothesis.configuration import set_hypothesis_home_dir


def pytest_configure(config):
    """What tests leave goes to a folder of their own: the notes of Hypothesis, tables of annotation files, and the
    profile of the notebooks' kernels, in which nothing of the user's is."""
    folder = tempfile.TemporaryDirectory(prefix="fvv-tests-")
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(gc.unfreeze)
    set_hypothesis_home_dir(folder.name)
    os.environ["HF_DATASETS_CACHE"] = str(Path(folder.name) / "datasets")
    os.environ["IPYTHONDIR"] = str(Path(folder.name) / "ipython")
    startup = Path(folder.name) / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "seldom.py").write_text("import gc\ngc.set_threshold(200_000, 20, 20)\ndel gc\n")
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out:
        from kernels import fork_kernels

        fork_kernels()
        config.pluginmanager.import_plugin("shared")


# What takes longest begins first, so that no worker is left alone with it; `make test` gives each worker whole files.
FIRST = (
    *("06_full_finetuning.ipynb", "09_scaling.ipynb", "test_distributed.py", "test_reader.py", "test_resume.py"),
    *("test_features.py", "test_training.py", "test_memory.py", "test_private_api.py", "test_lora.py", "test_book.py"),
)


def pytest_collection_finish():
    gc.freeze()  # what has been imported stays: no search for garbage looks through it again


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(FIRST)))
