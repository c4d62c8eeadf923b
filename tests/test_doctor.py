"""`fvv doctor`: one line for each check, a remedy that works, and an exit code that says whether the course can run."""

import re
import tomllib

import pytest
from shared import ROOT

from fvv_lib.__main__ import main
from fvv_lib.course import environment
from fvv_lib.course.environment import OPTIONAL, REQUIRED, Check

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def test_all_checks_pass_here_and_each_has_a_line(fvv):
    done = fvv("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, empty, verdict = done.stdout.splitlines()
    assert [line[5:21].strip() for line in lines] == [
        *("python", *REQUIRED, *OPTIONAL, "video", "vision tower", "device")
    ]
    assert all(re.match(r"(ok|-) {3,4}\S.*\S", line) for line in lines), lines
    assert (empty, verdict) == ("", "Everything that the course needs works.")


def test_a_check_that_raises_fails_with_the_reason():
    def broken():
        raise RuntimeError("the encoder is gone")

    check = environment._attempt("video", broken)
    assert check == Check("video", False, True, "RuntimeError: the encoder is gone")
    assert re.fullmatch(r"FAIL +video +RuntimeError: the encoder is gone", str(check))
    assert environment._attempt("device", lambda: "CPU") == Check("device", True, True, "CPU")


def test_a_missing_package_is_reported_with_its_remedy():
    check = environment._package("fvv-no-such-package", False, "pip install it")
    assert check == Check("fvv-no-such-package", False, False, "not installed: pip install it")
    assert str(check).startswith("-    fvv-no-such")
    assert environment._package("numpy", True, "").works


@pytest.mark.parametrize(
    ("checks", "code", "verdict"),
    [
        ([(True, True), (True, False)], 0, "Everything that the course needs works."),
        ([(True, True), (False, False)], 0, "Everything that the course needs works."),
        ([(True, True), (False, True), (False, True)], 1, "Fix first: check 1"),
    ],
    ids=["all work", "an optional one fails", "required ones fail"],
)
def test_only_a_failed_required_check_gives_exit_code_1(monkeypatch, capsys, checks, code, verdict):
    listed = [Check(f"check {i}", works, required, "") for i, (works, required) in enumerate(checks)]
    monkeypatch.setattr(environment, "examine", lambda: listed)
    assert main(["doctor"]) == code
    assert capsys.readouterr().out.splitlines()[-1] == verdict


def test_packages_and_remedies_match_the_project():
    dependencies, extras = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    assert set(REQUIRED) == dependencies - {"decord"}
    for name, remedy in OPTIONAL.items():
        extra = re.search(r'pip install -c constraints\.txt -e "\.\[(\w+)\]"', remedy)
        assert name in (names(extras[extra[1]]) if extra else dependencies), name
    assert (ROOT / "constraints.txt").is_file()
