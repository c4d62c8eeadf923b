"""The part of the machine that this process may use."""

import os
import subprocess
import sys

import pytest

from fvv_lib.machine import usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to cores")
def test_cores_that_this_process_may_not_use_are_not_counted():
    assert usable_cores() == len(os.sched_getaffinity(0))
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); from fvv_lib.machine import usable_cores; "
    code += "print(usable_cores(), os.cpu_count())"
    bound = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert bound == ["1", str(os.cpu_count())]
