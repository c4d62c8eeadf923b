"""A hang or crash of the child is an error of one call and nothing else."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fvv_lib import FvvError, VideoDecodeError, read_video
from fvv_lib.course.numbered import read_numbers, write_numbered
from fvv_lib.video import isolation


@pytest.fixture
def clip(tmp_path):
    write_numbered(tmp_path / "clip.mp4")
    return tmp_path / "clip.mp4"


def child_pid():
    return isolation._mine.child.process.pid


def is_gone(pid):
    """Return whether a process is neither running nor a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_call_returns_what_the_function_returns():
    assert isolation.call("textwrap.shorten", {"text": "one two three", "width": 9}, 10) == "one [...]"
    first = child_pid()
    assert isolation.call("os.getpid", {}, 10) == first
    assert first != os.getpid()


def test_an_error_does_not_keep_the_child_of_a_thread_that_has_ended(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    pids = []

    def work():
        try:
            read_video(tmp_path / "text.mp4", 2, timeout=20)
        except VideoDecodeError:
            pids.append(child_pid())

    gc.disable()  # a child in a reference cycle would be kept until a collection
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        deadline = time.monotonic() + 10
        while not is_gone(pids[0]) and time.monotonic() < deadline:
            time.sleep(0.01)  # the timer's thread ends a moment later
        assert is_gone(pids[0])
    finally:
        gc.enable()


def test_the_child_follows_its_owner_to_another_folder(tmp_path, monkeypatch):
    isolation.call("os.getcwd", {}, 10)
    monkeypatch.chdir(tmp_path)
    assert isolation.call("os.getcwd", {}, 10) == str(tmp_path)


def test_after_an_interrupted_call_the_next_gets_its_own_answer():
    """In a notebook, a user interrupts the cell and runs it again."""
    isolation.call("os.getpid", {}, 10)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    threading.Timer(0.3, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            isolation.call("subprocess.run", {"args": ["sleep", "2"]}, 10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert isolation.call("os.path.basename", {"p": "folder/next"}, 10) == "next"


def test_an_error_of_the_function_is_raised_in_the_caller(tmp_path):
    with pytest.raises(VideoDecodeError, match=r"gone\.mp4: no such file"):
        read_video(tmp_path / "gone.mp4", timeout=10)


def test_printed_output_of_the_child_does_not_mix_with_its_answers(capfd):
    isolation.call("builtins.print", {"sep": "x"}, 10)
    assert isolation.call("os.getpid", {}, 10) == child_pid()


def test_a_hang_ends_after_the_timeout_and_leaves_no_process():
    isolation.call("os.getpid", {}, 10)
    pid = child_pid()
    start = time.monotonic()
    with pytest.raises(isolation.ChildTimeoutError, match=r"after 0\.5 seconds"):
        isolation.call("signal.pause", {}, 0.5)
    assert time.monotonic() - start < 30
    assert is_gone(pid)
    assert isolation.call("os.getpid", {}, 10) == child_pid() != pid


def test_a_crash_is_an_error_and_the_next_call_works():
    isolation.call("os.getpid", {}, 10)
    pid = child_pid()
    with pytest.raises(isolation.ChildCrashError, match="exit code -6"):
        isolation.call("os.abort", {}, 10)
    assert is_gone(pid)
    assert isolation.call("os.getpid", {}, 10) == child_pid() != pid


def test_a_child_killed_between_calls_is_replaced():
    isolation.call("os.getpid", {}, 10)
    os.kill(child_pid(), signal.SIGKILL)
    time.sleep(0.2)
    assert isolation.call("os.getpid", {}, 10) == child_pid()


@pytest.fixture
def anew(monkeypatch):
    """Start a new child for the next call, and keep no child that a test has changed."""
    monkeypatch.setattr(isolation, "_mine", threading.local())


@pytest.mark.parametrize(
    ("code", "what"), [("raise SystemExit(3)", "exit code 3"), ("import time; time.sleep(60)", "after 1 seconds")]
)
@pytest.mark.usefixtures("anew")
def test_a_child_that_dies_or_hangs_at_its_start_is_not_an_error_of_the_file(clip, monkeypatch, code, what):
    monkeypatch.setattr(isolation, "START", code)
    monkeypatch.setattr(isolation, "START_SECONDS", 1)
    with pytest.raises(FvvError, match=f"did not start .*{what}") as caught:
        read_video(clip, 2, timeout=30)
    assert not isinstance(caught.value, VideoDecodeError)
    assert "clip.mp4" not in str(caught.value)
    monkeypatch.undo()
    assert read_video(clip, 2, timeout=30).total_frames == 72


class LateTimer(threading.Timer):
    """A timer that expires at the moment when it is cancelled."""

    def cancel(self):
        super().cancel()
        self.function(*self.args, **self.kwargs)


@pytest.mark.usefixtures("anew")
def test_a_late_timer_does_not_end_a_later_call(monkeypatch):
    """A child that was killed after its answer is replaced, and no call fails."""
    monkeypatch.setattr(threading, "Timer", LateTimer)
    for _ in range(5):
        assert isolation.call("os.path.basename", {"p": "folder/file"}, 30) == "file"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the memory that RLIMIT_DATA limits")
@pytest.mark.usefixtures("anew")
def test_a_child_cannot_use_more_memory_than_its_limit(clip, monkeypatch):
    monkeypatch.setattr(isolation, "MEMORY", 2**30)
    with pytest.raises(MemoryError):
        isolation.call("numpy.ones", {"shape": 2**28}, 30)  # 2 GiB
    assert isolation.call("os.path.basename", {"p": "folder/file"}, 30) == "file"
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: reading it takes more than 1 GiB"):
        read_video(clip, 50_000, timeout=60)
    assert read_video(clip, 8, timeout=30).total_frames == 72


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_ignores_signals_to_the_whole_job(number):
    """A scheduler or Ctrl-C signals the whole job, but the owner decides when its child ends."""
    isolation.call("os.getpid", {}, 10)
    before = child_pid()
    os.kill(before, number)
    time.sleep(0.2)
    assert isolation.call("os.getpid", {}, 10) == before


def test_a_child_is_replaced_after_its_maximum_number_of_calls(monkeypatch):
    monkeypatch.setattr(isolation, "CALLS", 3)
    pids = [isolation.call("os.getpid", {}, 10) for _ in range(7)]
    assert len(set(pids)) >= 3
    assert all(map(is_gone, set(pids) - {child_pid()}))


def test_each_thread_has_its_own_child_which_ends_with_it():
    pids = []
    threads = [threading.Thread(target=lambda: pids.append(isolation.call("os.getpid", {}, 30))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2
    deadline = time.monotonic() + 10
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(is_gone, pids))


def test_the_child_ends_with_its_parent():
    code = "import os; from fvv_lib.video import isolation\n"
    code += "print(isolation.call('os.getpid', {}, 10), flush=True); os._exit(1)"
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    deadline = time.monotonic() + 10
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(pid)


# --- reading videos ---------------------------------------------------------------------------------------------


def test_frames_from_the_child_are_the_same(clip):
    here, there = read_video(clip, 8), read_video(clip, 8, timeout=30)
    assert (here.frames == there.frames).all()
    assert read_numbers(there.frames) == there.indices.tolist()


def test_a_video_that_takes_too_long_is_an_error_that_names_it(clip):
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: it was not decoded within 0\.0001 seconds"):
        read_video(clip, 8, timeout=0.0001)
    assert read_video(clip, 8, timeout=30).total_frames == 72


class Clips(Dataset):
    """The same clip six times; item 3 crashes its child."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 3:
            with pytest.raises(isolation.ChildCrashError):
                isolation.call("os.abort", {}, 10)
            return torch.tensor(-1)
        return torch.tensor(read_numbers(read_video(self.path, 8, timeout=30).frames)[-1])


def test_a_data_loader_worker_survives_a_crash(clip):
    isolation.call("os.getpid", {}, 10)  # a child of this process, which forked workers must not use
    loader = DataLoader(Clips(clip), batch_size=1, num_workers=2)
    assert [int(item) for item in loader] == [71, 71, 71, -1, 71, 71]
    assert isolation.call("os.getpid", {}, 10) == child_pid()
