"""Kernels that start at once: each is forked from a process that has imported what the lessons import.

The imports of a kernel take 4 seconds, and there are 30 notebooks. Jupyter starts the process of a kernel through a
*provisioner*; the one here forks it. `pytest --nbval notebooks/` does not load this file and starts kernels as Jupyter
does.
"""

import os
from importlib.metadata import EntryPoint

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from starting import FORKSERVER, leave_tests


def fork_kernels():
    """Make `ForkedKernel` the provisioner of every kernel that this process starts."""
    group = KernelProvisionerFactory.GROUP_NAME
    KernelProvisionerFactory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:ForkedKernel", group)
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "forked"


def _run_kernel(arguments, folder, environment):
    leave_tests()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as nbval does
    import matplotlib
    from ipykernel.kernelapp import launch_new_instance
    from transformers.utils.logging import disable_progress_bar

    # These two read their variables when they are imported: too early for what the kernel and the lessons set.
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    disable_progress_bar()
    launch_new_instance(argv=arguments)


class _Forked:
    """A process of multiprocessing with the methods of `subprocess.Popen` that a provisioner calls."""

    stdin = stdout = stderr = None

    def __init__(self, *arguments):
        self._process = FORKSERVER.Process(target=_run_kernel, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


class ForkedKernel(LocalProvisioner):
    async def launch_kernel(self, cmd, **kwargs):
        """`cmd` is `python -m ipykernel_launcher ARGUMENTS`."""
        self.process = _Forked(cmd[3:], kwargs["cwd"], kwargs["env"])
        self.pid = self.pgid = self.process.pid
        return self.connection_info
