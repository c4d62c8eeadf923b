"""Ranks, as processes that start at once: of `fvv finetune`, or of a function.

A start is five seconds of imports, and some tests need dozens of starts. So each is forked from one process that has
imported everything (multiprocessing's forkserver), and gets the environment that torchrun sets.
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from fvv_lib.scaling.ranks import _free_port

SECONDS = 300
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # DeepSpeed looks for ninja
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}
ENVIRONMENT |= {"PATH": PATH}
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["fvv_lib.finetuning.recipe", "deepspeed", "peft", "fvv_lib.plotting", "ipykernel.kernelapp"]
)


def leave_tests():
    """Call this first in a process that is forked."""
    os.setsid()  # a signal to the group reaches the workers that read frames, and not the tests
    gc.freeze()  # no search for garbage looks through what has been imported


def print_to(log):
    """Let this process, and those that it starts, print at the end of a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)


class Forked:
    """A process that calls a function, with the methods of `subprocess.Popen` that its users call."""

    stdin = stdout = stderr = None

    def __init__(self, function, *arguments):
        self._process = FORKSERVER.Process(target=function, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


def _finetune(flags, environment, log, before):
    leave_tests()
    os.environ.update(environment)
    print_to(log)
    from fvv_lib.__main__ import main

    if before:
        before()
    sys.exit(main(["finetune", *flags]))


def _of_rank(rank, ranks, port):
    environment = {**os.environ, **ENVIRONMENT, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    return environment | {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _call(function, environment):
    os.environ.update(environment)
    function()


def run_as_rank(function):
    """Call a function of a test module in a process of its own, the only rank of its run."""
    process = FORKSERVER.Process(target=_call, args=(function, _of_rank(0, 1, _free_port())))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0


class Run:
    """Ranks of one training run, started. Used as a context, none of them outlives it.

    Attributes:
        text: what all of them have printed so far.
        codes: their exit codes; None where one still runs.
    """

    def __init__(self, flags, ranks=1, before=None):
        self.folder = tempfile.TemporaryDirectory(prefix="fvv-run-")
        self.logs = [Path(self.folder.name) / f"rank{rank}.log" for rank in range(ranks)]
        port = _free_port()
        self.processes = []
        for rank, log in enumerate(self.logs):
            environment = _of_rank(rank, ranks, port) if ranks > 1 else {**os.environ, **ENVIRONMENT}
            process = FORKSERVER.Process(
                target=_finetune, args=([str(flag) for flag in flags], environment, log, before)
            )
            process.start()
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()
        self.folder.cleanup()

    @property
    def text(self):
        return "\n".join(log.read_text(errors="replace") for log in self.logs if log.exists())

    @property
    def codes(self):
        return [process.exitcode for process in self.processes]

    def send(self, number):
        """Send a signal to every process of the run, the data loaders' workers too."""
        for process in self.processes:
            if process.exitcode is None:
                os.killpg(process.pid, number)

    def wait(self):
        """Wait for the end of all ranks, but for none when one has failed: it may be what the others wait for."""
        end = time.monotonic() + SECONDS
        while None in self.codes and not any(self.codes) and time.monotonic() < end:
            time.sleep(0.02)

    def join(self):
        """Wait for the end of all ranks, whatever their exit codes are."""
        for process in self.processes:
            process.join(SECONDS)

    def wait_for(self, words):
        """Wait until these words have been printed."""
        end = time.monotonic() + SECONDS
        while words not in self.text:
            assert None in self.codes, self.text[-3000:]
            assert time.monotonic() < end, self.text[-3000:]
            time.sleep(0.02)


def finetune(flags, ranks=1, before=None):
    """Run the command to its good end. Each rank calls `before` first."""
    with Run(flags, ranks, before) as run:
        run.wait()
        assert run.codes == [0] * ranks, run.text[-6000:]
