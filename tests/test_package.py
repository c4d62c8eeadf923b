"""The package: rooms in the order of the course, lazy public names, and imports in one direction."""

import ast
import subprocess
import sys

import pytest
from notebook_rules import LESSONS as NOTEBOOKS
from shared import ROOT

import fvv_lib

# A folder or top-level module imports only from earlier lines.
LINES = [
    {"errors"},
    {"servers"},
    {"files"},
    {"far"},
    {"video_config", "provenance", "plotting", "private_api", "machine", "processes", "progress"},
    {"settings"},
    {"arguments"},
    {"prompt"},
    {"labels", "video"},
    {"model", "data"},
    {"weights"},
    {"evaluation", "scaling"},
    {"finetuning"},
    {"course"},
    {"cli"},
    {"__main__"},
]
LATE = {("files", "far")}  # the methods of `Url` import what asks servers, when they are called
PLACES = set.union(*LINES)
OUTSIDE = ("fvv_lib/__init__.py", "fvv_lib/__main__.py")
FILES = [path for path in sorted((ROOT / "fvv_lib").rglob("*.py")) if not str(path).endswith(OUTSIDE)]


def place_of(path):
    """Return the room of a file, or the name of a top-level module."""
    return path.relative_to(ROOT / "fvv_lib").parts[0].removesuffix(".py")


def imports_of(source, package="fvv_lib"):
    """Return the rooms and top-level modules that a source imports in any syntax; `fvv_lib` stands for public names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "fvv_lib":
                place = rest.split(".")[0]
                found.add(place if place in PLACES else "fvv_lib")
    return found


@pytest.mark.parametrize(
    ("source", "places"),
    [
        ("from fvv_lib.prompt.placeholders import bos_ids", {"prompt"}),
        ("from fvv_lib import finetuning", {"finetuning"}),
        ("from fvv_lib import FvvError", {"fvv_lib"}),
        ("from fvv_lib.finetuning import recipe as r, resume", {"finetuning"}),
        ("import fvv_lib.video.exact.reader", {"video"}),
        ("import os, fvv_lib.model.encoder as m", {"model"}),
        ("import fvv_lib", {"fvv_lib"}),
        ("def late():\n    from fvv_lib.plotting import plot_loss", {"plotting"}),
        ("from ..weights import loading\nfrom .tokens import bos_ids", {"weights", "model"}),
        ("import fvv_library.other\nfrom fvv_library import thing\nfrom os.path import join", set()),
    ],
)
def test_imports_are_found_in_any_syntax(source, places):
    assert imports_of(source, "fvv_lib.model") == places


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "fvv_lib")))
def test_a_folder_imports_only_from_earlier_folders(path):
    place = place_of(path)
    line = next(number for number, places in enumerate(LINES) if place in places)
    before = set.union(set(), *LINES[:line])
    late = {other for own, other in LATE if own == place}
    assert imports_of(path.read_text()) <= before | late | ({place} if path.parent.name != "fvv_lib" else set())


def test_every_folder_and_module_is_in_lines():
    assert {place_of(path) for path in FILES} | {"__main__"} == PLACES


def test_lesson_n_is_room_n():
    folders = {path.name for path in (ROOT / "fvv_lib").iterdir() if (path / "__init__.py").is_file()}
    assert set(fvv_lib.LESSONS.values()) == folders - {"course", "cli"}
    assert [int(path.name[:2]) for path in NOTEBOOKS] == [0, *fvv_lib.LESSONS]
    for lesson, room in fvv_lib.LESSONS.items():
        assert (ROOT / "fvv_lib" / room / "__init__.py").read_text().startswith(f'"""Room {lesson}: ')


def test_public_names_import_from_the_package():
    for name in fvv_lib.__all__:
        assert getattr(fvv_lib, name) is not None
    assert set(fvv_lib.__all__) <= set(dir(fvv_lib))
    with pytest.raises(AttributeError, match="nothing"):
        _ = fvv_lib.nothing


def test_the_names_of_the_described_system_are_public():
    described = {
        *("is_video_file", "load_video_frames", "preprocess_multimodal", "tokenizer_image_token", "preprocess"),
        *("prepare_inputs_labels_for_multimodal", "encode_images", "ModelArguments", "DataArguments"),
        *("TrainingArguments", "LazySupervisedDataset", "DataCollatorForSupervisedDataset"),
        *("make_supervised_data_module", "load_pretrained_model", "sample_frame_indices", "read_video"),
        *("VideoFrames", "expand_image_tokens", "conversation_templates", "diagnose_labels", "flatten_frames"),
        *("unflatten_frames", "FastVlmForVideo", "LlavaForVideo", "VideoMixin", "FvvError"),
    }
    assert described <= set(fvv_lib.__all__)


def test_no_public_name_is_the_name_of_a_module():
    """Otherwise importing the module would replace the public name."""
    assert not set(fvv_lib.__all__) & PLACES


def test_public_names_have_docstrings():
    for name in fvv_lib.__all__:
        value = getattr(fvv_lib, name)
        if callable(value):
            assert value.__doc__, name
            assert not value.__doc__.startswith(f"{name}("), name  # the default docstring of a dataclass


def run(code):
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"torch", "transformers", "av", "decord", "deepspeed", "matplotlib", "datasets", "numpy"}
    run(f"import sys, fvv_lib; found = {heavy!r} & set(sys.modules); assert not found, found")


def test_a_room_loads_its_names_when_they_are_used():
    run(
        "import sys, fvv_lib.evaluation as room; assert 'torch' not in sys.modules\n"
        "assert 'is_correct' in dir(room); assert room.is_correct('(A).', '(A)', ['(A)', '(B)'])"
    )


def test_a_child_that_decodes_loads_no_torch(data_samples):
    """One child is started for each reading thread, so it must start fast. `fvv_lib.video` loads its modules lazily."""
    clip = data_samples / "videos" / "test" / "motion-0001.mp4"
    run(
        "import sys; from fvv_lib.video import isolation, read\n"
        f"read.read_video({str(clip)!r}, 2)\n"
        "found = {'torch', 'transformers', 'torchvision'} & set(sys.modules); assert not found, found"
    )


def test_public_names_import_without_optional_packages():
    missing = ("decord", "deepspeed", "peft", "tensorboard")
    run(
        f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
        "import fvv_lib\n"
        "for name in fvv_lib.__all__: getattr(fvv_lib, name)"
    )


def test_without_decord_its_backend_names_the_remedy(monkeypatch, data_samples):
    monkeypatch.setitem(sys.modules, "decord", None)
    clip = data_samples / "videos" / "test" / "motion-0001.mp4"
    with pytest.raises(fvv_lib.FvvError, match=r"decord is not installed.*backend='pyav'"):
        fvv_lib.read_video(clip, backend="decord")
    assert fvv_lib.read_video(clip).total_frames == 24


# --- types ------------------------------------------------------------------------------------------------------------

RIGHT = """
import fvv_lib
from fvv_lib import LazySupervisedDataset, VideoFrames, make_frame_spec

video: VideoFrames = fvv_lib.read_video("clip.mp4", 8, strategy="segment", num_threads=1)
count: int = video.total_frames
loaded = fvv_lib.load_pretrained_model("model")
spec = make_frame_spec(loaded, fvv_lib.VideoConfig())
args = fvv_lib.DataArguments(num_video_frames=4)
data = LazySupervisedDataset(loaded.tokenizer, ["train.json"], args, frame_spec=spec)
answer: str = fvv_lib.ask(loaded, "clip.mp4", "What happens?")
"""
WRONG = """
import fvv_lib

fvv_lib.read_video(12, num_framez="x")
fvv_lib.sample_frame_indices("ten", 8)
fvv_lib.DataArguments(num_video_frames="four")
fvv_lib.DataArguments().num_video_frames = 4
fvv_lib.make_supervised_data_module()
fvv_lib.nothing
"""


SKIP = "".join(
    f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "transformers", "numpy", "PIL", "datasets")
)


def test_a_type_checker_knows_the_public_names(tmp_path):
    """Run mypy on user scripts with the installed package. mypy skips the large dependencies."""
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nfollow_imports = silent\nignore_missing_imports = true\n{SKIP}")
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    errors = [line.split(":")[:2] for line in done.stdout.splitlines() if ": error:" in line]
    assert errors == [["wrong.py", str(number)] for number in (4, 4, 5, 6, 7, 8, 8, 9)], done.stdout
