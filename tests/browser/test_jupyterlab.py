"""`make test-browser`: run every notebook from top to bottom in JupyterLab, in a real browser.

This needs Chromium and `pip install -e ".[browser]"`. JupyterLab opens a copy of the repository without stored outputs.
The browser may not contact any other server. A screenshot of each notebook is saved in `build/browser/` for inspection.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from notebook_rules import ALL, ROOT, code_cells, read
from shared import ROOT as REPOSITORY

pytestmark = pytest.mark.browser

PICTURES = REPOSITORY / "build" / "browser"
SECONDS = 1800  # for one notebook; lessons with training take minutes
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},  # draw all cells
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
LEFT_OUT = shutil.ignore_patterns(".*", "build", "output", "*.egg-info", "__pycache__")

IS_READY = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.isReady && panel.sessionContext?.session?.kernel?.status === "idle";
}"""
HAS_RUN = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const code = [...panel.content.model.cells].filter(cell => cell.type === "code");
    const kernel = panel.sessionContext.session?.kernel;
    const failed = code.some(cell => cell.outputs.toJSON().some(output => output.output_type === "error"));
    return failed || (kernel?.status === "idle" && code.every(cell => cell.executionCount !== null));
}"""
SEEN = """() => {
    const cells = [...window.jupyterapp.shell.currentWidget.content.widgets];
    return cells.filter(cell => cell.model.type === "code").map(cell => ({
        count: cell.model.executionCount,
        outputs: cell.model.outputs.toJSON(),
        widths: [...cell.node.querySelectorAll(".jp-OutputArea img")].map(picture => picture.naturalWidth),
    }));
}"""
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer"


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    """A copy of the repository without stored outputs: the repository stays unchanged, and all outputs are new."""
    copy = Path(shutil.copytree(REPOSITORY, tmp_path_factory.mktemp("course") / "course", ignore=LEFT_OUT))
    for path in ALL:
        notebook = read(path)
        for cell in code_cells(notebook):
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, copy / path.relative_to(REPOSITORY))
    return copy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def lab(course, tmp_path_factory):
    """The address of a JupyterLab that neither reads nor writes the settings of the user."""
    home = tmp_path_factory.mktemp("jupyter")
    for name, settings in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    port = free_port()
    options = [f"--ServerApp.port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={course}"]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], env=environment, cwd=course, stdout=log, stderr=log)
    address = f"http://localhost:{port}"
    for _ in range(240):
        assert server.poll() is None, (home / "log").read_text()
        try:
            urllib.request.urlopen(f"{address}/api/status").close()
            break
        except urllib.error.URLError:
            time.sleep(0.5)
    yield address
    server.terminate()
    server.wait(60)


@pytest.fixture
def page(browser, lab):
    """A new browser window without access to other servers. Its kernel ends with it."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(60_000)
    context.route(lambda address: not address.startswith((lab, "data:", "blob:")), lambda route: route.abort())
    yield context.new_page()
    for session in context.request.get(f"{lab}/api/sessions").json():
        context.request.delete(f"{lab}/api/sessions/{session['id']}")
    context.close()


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not {".ipynb_checkpoints", "__pycache__"} & set(path.parts)}


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_notebook_runs_from_top_to_bottom_in_jupyterlab(path, page, lab, course):
    before = files(course)
    page.goto(f"{lab}/lab/tree/{path.relative_to(REPOSITORY)}?reset")
    page.wait_for_function(IS_READY)
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator("[data-command='runmenu:restart-and-run-all']").click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_function(HAS_RUN, timeout=SECONDS * 1000)

    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    notebook = page.locator(NOTEBOOK)
    page.set_viewport_size({"width": 1300, "height": notebook.evaluate("box => box.scrollHeight") + 200})
    notebook.evaluate("box => box.scrollTo(0, 0)")
    page.screenshot(path=(PICTURES / path.relative_to(ROOT)).with_suffix(".png"))

    seen, stored = page.evaluate(SEEN), code_cells(read(path))
    for number, (shown, cell) in enumerate(zip(seen, stored, strict=True), start=1):
        wrong = [o for o in shown["outputs"] if o["output_type"] == "error" or o.get("name") == "stderr"]
        assert wrong == [], cell.source
        assert shown["count"] == number
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert shown["widths"], f"no figure: {cell.source}"
            assert min(shown["widths"]) > 0, f"an empty figure: {cell.source}"
    assert files(course) == before, "files were left behind"
