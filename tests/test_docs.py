"""The README and the package files say what is true."""

import json
import re
import subprocess
import tomllib

import pytest
import yaml
from conftest import ROOT

from fvv_lib.training import format_table

README = (ROOT / "README.md").read_text()
SCRIPT = (ROOT / "scripts" / "finetune_video.sh").read_text()
MODULES_WITH_FLAGS = ("arguments", "check", "chat", "convert", "dryrun", "memory")
MOTION = json.loads((ROOT / "benchmarks" / "results" / "motion.json").read_text())


def test_readme_quotes_the_measured_table():
    run = MOTION["runs"][0]
    rows = {
        when: {kind: {"accuracy": value, "total": run["questions"][kind]} for kind, value in run[when].items()}
        for when in ("before", "after")
    }
    assert format_table(rows["before"], rows["after"]) in README


def test_readme_quotes_the_seeds_and_the_single_frame():
    eight = [run for run in MOTION["runs"] if run["frames"] == 8]
    one = [run for run in MOTION["runs"] if run["frames"] == 1]
    assert len({run["seed"] for run in eight}) == 3
    motion = ", ".join(f"{run['after']['motion']:.1%}" for run in eight)
    order = ", ".join(f"{run['after']['order']:.1%}" for run in eight)
    assert f"motion {motion}; order {order}" in README
    assert all(f"stays at motion {run['after']['motion']:.1%}" in README for run in one)
    assert f"{max(run['train_seconds'] for run in eight):.0f} seconds" in README
    assert MOTION["hardware"] in README


def test_the_runs_measured_are_runs_of_the_script():
    (steps,) = re.findall(r"--max_steps (\d+)(?: \\)?$", SCRIPT, re.M)
    assert [run["steps"] for run in MOTION["runs"]] == [int(steps)] * len(MOTION["runs"])


def test_the_model_learned_what_no_single_frame_tells():
    for run in MOTION["runs"]:
        assert run["questions"]["motion"] >= 100
        assert run["questions"]["order"] >= 100
        assert run["before"]["motion"] <= 0.4
        assert run["before"]["order"] <= 0.65
        if run["frames"] == 1:
            assert run["after"]["motion"] <= 0.45
        else:
            assert min(run["after"].values()) >= 0.95
            assert run["train_seconds"] <= 300


def test_the_shortcut_of_lesson_07_was_measured_and_mended():
    record = json.loads((ROOT / "benchmarks" / "results" / "backwards.json").read_text())
    forwards, mended = record["forwards"], record["forwards, then both ways"]
    assert forwards["forwards"]["motion"] >= 0.95
    assert forwards["backwards"]["motion"] <= 0.7
    assert forwards["backwards"]["order"] >= 0.95  # order has no shortcut
    assert min(*mended["forwards"].values(), *mended["backwards"].values()) >= 0.95
    text = " ".join(README.split())
    order, motion = forwards["backwards"]["order"], forwards["backwards"]["motion"]
    assert f"of order it is right in {order:.1%}, of motion in {motion:.1%}" in text
    assert f"{mended['forwards']['motion']:.1%} forwards, {mended['backwards']['motion']:.1%} backwards" in text
    from_base = record["both ways"]
    assert f"{from_base['forwards']['motion']:.1%} and {from_base['backwards']['motion']:.1%}; one run" in text
    recipe = re.findall(r'"(--[^"]+)"', (ROOT / "benchmarks" / "backwards.py").read_text().split("QUIET")[0])
    flags = re.findall(r"(--\w+) (\S+)", " ".join(recipe))
    assert len(flags) == 5
    assert all(f"{flag} {value}\n" in SCRIPT for flag, value in flags)


def test_readme_quotes_the_measured_reader():
    decode, pixels, fuzz, more, leak = (
        json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("decode", "pixels", "fuzz", "fuzz_more", "leak")
    )
    text = " ".join(README.split())
    both = ("one thread", "all threads")
    for ratios in (
        [decode["generated, 60 s of 1080p"][threads]["described / ours"] for threads in both],
        [decode["real"][threads]["described / ours"] for threads in both],
        [decode["all clips"][threads] for threads in both],
    ):
        cells = " | ".join(f"{ratio['geometric mean']}x ({ratio['least']}x)" for ratio in ratios)
        assert f"| {cells} |" in text
    for ratio in decode["all clips"].values():
        assert ratio["geometric mean"] >= 1.5
        assert ratio["least"] >= 0.9
    counts = decode["encodings"]["counts"]
    assert counts["ours"]["right"] == sum(counts["ours"].values())
    assert f"Of {counts['ours']['right']} encodings" in text
    theirs = counts["described"]
    assert (
        f"reads {theirs['right']} right, {theirs['wrong']} wrong without a word, and refuses {theirs['refused']}"
        in text
    )
    assert f"one after the other, {pixels['described / ours']['file to tensor']} times as long" in text
    assert f"the pixels alone {pixels['described / ours']['pixels']} times, because" in text
    file, alone = pixels["file to tensor, ms"], pixels["pixels, ms"]
    scaled = [times["described"] / times["ours, scaled on the CPU"] for times in (file, alone)]
    assert f"scales ours too, it is {scaled[0]:.1f} and {scaled[1]:.1f} times;" in text
    torchvision, bytes_, floats = (
        file[f] for f in ("described, torchvision", "ours, uint8", "ours, scaled on the CPU")
    )
    assert f"eight padded frames of 1024x1024 takes {bytes_} ms;" in text
    assert f"torchvision processor the file takes {torchvision} ms, ours scaled {floats} ms." in text
    assert fuzz["files"] >= 1000
    assert fuzz["results"]["wrong"] == 0
    outcome = (
        f"{fuzz['results']['right']} gave right frames, {fuzz['results']['error']:,} an error, and 0 a wrong frame"
    )
    assert f"Of {fuzz['files']:,} damaged files {outcome}" in text
    assert f"Of {more['files']:,} more, damaged by other random numbers" in text
    assert f"numbers, {more['results']['wrong']} gave a wrong frame, all of them HEVC" in text
    assert all(line.startswith("clip.mov") for line in more["wrong"])  # the one clip in HEVC
    assert not {"timeout", "crash"} & {kind for part in (fuzz, more) for kind, n in part["results"].items() if n}
    change = leak["in this process"]["change after the first 500, %"]
    assert change <= 5
    child = leak["in a child"]["resident, MiB"]
    assert f"In {leak['reads']:,} reads the process grew by {change}% after the first 500" in text
    assert f"the child in which training reads held between {min(child)} and {max(child)} MiB" in text


def test_readme_quotes_the_full_size_model():
    record = json.loads((ROOT / "benchmarks" / "results" / "full_size.json").read_text())
    step, answer = record["step"], record["answer"]
    text = " ".join(README.split())
    assert f"takes {step['step_seconds']:.0f} seconds and {step['peak_gib']:.1f} GiB" in text
    assert f"an answer of 8 tokens {answer['answer_seconds']:.0f} seconds and {answer['peak_gib']:.1f} GiB" in text
    assert step["peak_gib"] < 24


def test_readme_quotes_the_measured_training_step():
    steps = json.loads((ROOT / "benchmarks" / "results" / "train_step.json").read_text())
    text = " ".join(README.split())
    assert f"({steps['hardware']}; [benchmarks/train_step.py]" in text
    script = (ROOT / "benchmarks" / "train_step.py").read_text()
    assert all(f'"{name}": Case(' in script for name in steps["cases"])  # none of a case that is no longer measured
    for name, case in steps["cases"].items():
        sides = case["sides"]
        assert len({round(side["loss"], 2) for side in sides.values()}) == 1, name  # all compute the same
        for side, row in sides.items():
            cells = (row["seconds per step"], row["peak GiB"], row["peak GiB above weights"])
            assert f"| {name} | {side} | {' | '.join(map(str, cells))} |" in text
        if "ours / stock" in case:
            ratio = case["ours / stock"]
            assert f"{ratio['steps per second']}x the steps per second" in text, name
            memory = f"{ratio['peak']} of its memory, {ratio['peak above weights']} of what it takes beside the weights"
            assert memory in text, name
    language, frozen = (
        steps["cases"][name] for name in ("language side, 2,100 tokens", "whole model, tower frozen, 8 frames")
    )
    assert language["ours / stock"]["steps per second"] >= 2
    assert language["ours / stock"]["peak"] <= 0.5
    assert frozen["ours / stock"]["steps per second"] >= 1.5
    together, pieces = (frozen["sides"][side]["seconds per step"] for side in ("ours, all frames at once", "ours"))
    assert f"{together} seconds become {pieces}" in text
    assert pieces < together


def test_readme_quotes_what_fits_and_how_well_it_is_predicted():
    memory = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())
    assert "\n".join(memory["presets"]) in README
    worst = max(abs(row["error"]) for row in memory["rows"])
    text = " ".join(README.split())
    assert f"{len(memory['rows'])} settings the prediction is at most {worst:.1%} from the measured peak" in text
    assert "where it is off by more than 1% it is too low" in text
    assert all(row["error"] <= 0.01 for row in memory["rows"])
    assert memory["hardware"] in README


def test_readme_quotes_the_measured_index():
    big = json.loads((ROOT / "benchmarks" / "results" / "big_index.json").read_text())
    described, ours = big["described"], big["ours"]
    pss, first = "pss of the index per worker, MiB", "seconds to first batch"
    assert big["samples"] == 1_000_000
    assert ours[pss] <= described[pss] / 5
    text = " ".join(README.split())
    assert f"Of {big['samples']:,} samples each of {big['workers']} workers holds {ours[pss]} MiB" in text
    assert f"instead of the {described[pss]} of a list" in text
    assert f"first batch comes after {ours[first]} seconds instead of {described[first]}" in text
    assert f"after {big['seconds to first batch, when every sample is checked']} seconds" in text


def test_readme_quotes_the_killed_run():
    kill = json.loads((ROOT / "benchmarks" / "results" / "kill.json").read_text())
    kills, difference = kill["kills"], kill["largest difference of a weight"]
    assert all(death["killed"] for death in kills)
    assert difference == 0
    saving = sum(death["in a save"] for death in kills)
    text = " ".join(README.split())
    assert f"{kill['steps']} steps that was killed {len(kills)} times, {saving} of them in a save," in text
    assert f"they differ by {difference} at most" in text


def test_readme_quotes_the_measured_feature_cache():
    cache = json.loads((ROOT / "benchmarks" / "results" / "feature_cache.json").read_text())
    text = " ".join(README.split())
    cut, whole = cache["cases"]["2 of 24 layers"], cache["cases"]["24 layers, LoRA"]
    assert f"an epoch is {cut['times faster']} times faster than one that encodes again" in text
    assert f"all 24 layers run, {whole['times faster']} times" in text
    assert f"A frame of 1024x1024 takes {cache['stored MB per frame']} MB" in text
    assert cut["times faster"] >= 5
    for case in (cut, whole):
        assert case["largest difference of losses"] < 1e-3
        assert case["sides"]["stored"]["features"]["computed"] + case["sides"]["stored"]["features"]["found"] == 3


@pytest.mark.parametrize("document", ["README.md", "data_samples/README.md"])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_module_and_every_flag_of_the_readme_exists():
    for module in re.findall(r"fvv_lib\.(\w+)", README):
        assert (ROOT / "fvv_lib" / f"{module}.py").exists() or module in (ROOT / "fvv_lib" / "__init__.py").read_text()
    arguments = "".join((ROOT / "fvv_lib" / f"{module}.py").read_text() for module in MODULES_WITH_FLAGS)
    stock = {"max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"}
    stock |= {"gradient_checkpointing", "output_dir", "help", "per_device_eval_batch_size"}
    stock |= {"resume_from_checkpoint", "eval_strategy", "eval_steps", "train_sampling_strategy"}
    for flag in set(re.findall(r"--(\w+)", README)) - stock - {"nbval"}:
        assert f"{flag}:" in arguments, flag


def test_the_readme_names_every_folder_and_every_script():
    files = README.split("\n## Files\n")[1].split("\n## ")[0]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    folders = {path.split("/")[0] for path in listed if "/" in path and not path.startswith(".")}
    assert set(re.findall(r"^\| `([\w-]+)/`", files, re.M)) == folders
    for script in (ROOT / "scripts").glob("*.*"):
        assert f"`{script.name}`" in files, script.name


def test_conda_users_get_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["course"], *extras["book"], *extras["scale"], *extras["dev"]]
    wanted = {requirement for requirement in wanted if not requirement.startswith("fvv_lib")}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert set(pip) - {"-e ."} == wanted
    assert f"python{project['requires-python']}" in environment


def test_tested_versions_are_in_the_ranges():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    ranges = {Requirement(text).name.lower(): Requirement(text).specifier for group in groups for text in group}
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {name.lower(): version for name, version in pins.items()}
    assert set(pins) == set(ranges) - {"fvv_lib"}
    for name, version in pins.items():
        assert ranges[name].contains(version), name


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_sample_shown_is_a_sample():
    text = (ROOT / "data_samples" / "README.md").read_text()
    shown = json.loads(text.split("```json")[1].split("```")[0])
    assert shown in json.loads((ROOT / "data_samples" / "test.json").read_text())
