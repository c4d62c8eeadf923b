"""Kernels that start at once: each is forked from a process that has imported what the lessons import.

The imports of a kernel take 4 seconds, and there are 30 notebooks. Jupyter starts the process of a kernel through a
*provisioner*; the one here forks it. The ranks of lesson 09 are forked in the same way. `pytest --nbval notebooks/`
does not load this file and starts kernels and ranks as Jupyter and the library do.
"""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from starting import Forked, leave_tests, print_to

from fvv_lib.scaling import ranks


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
    ranks.subprocess = SimpleNamespace(Popen=_start_rank, STDOUT=subprocess.STDOUT)
    launch_new_instance(argv=arguments)


def _run_rank(code, arguments, folder, environment, log):
    leave_tests()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    print_to(log)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


def _start_rank(command, env, stdout, stderr, start_new_session):
    """Do what `subprocess.Popen` does with `python -c CODE ARGUMENTS`."""
    assert (command[1], stderr, start_new_session) == ("-c", subprocess.STDOUT, True)
    return Forked(_run_rank, command[2], command[3:], os.getcwd(), env, stdout.name)


class ForkedKernel(LocalProvisioner):
    async def launch_kernel(self, cmd, **kwargs):
        """`cmd` is `python -m ipykernel_launcher ARGUMENTS`."""
        self.process = Forked(_run_kernel, cmd[3:], kwargs["cwd"], kwargs["env"])
        self.pid = self.pgid = self.process.pid
        return self.connection_info
