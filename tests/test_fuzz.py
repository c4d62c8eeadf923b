"""A seeded part of `benchmarks/fuzz.py`: damaged files give right frames or an error."""

import json
import subprocess
import sys

from shared import ROOT


def test_damaged_files_give_right_frames_or_an_error(tmp_path):
    result = tmp_path / "fuzz.json"
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", "--each", "4", "--seed", "7", "--output", result]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=tmp_path)
    record = json.loads(result.read_text())
    assert record["files"] == 8 * 5 * 4
    assert record["wrong"] == []
    assert record["results"]["timeout"] == 0
    assert record["results"]["right"] > 20
    assert record["results"]["error"] > 60
