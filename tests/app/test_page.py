"""The page in a real browser, served by the command."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.harness.predict import Localiser
from tests.conftest import photo_array
from tests.harness.helpers import save_tiny

pytestmark = [pytest.mark.system, pytest.mark.slow]

MOST_BYTES = 300_000
MOST_PIXELS = 100_000
START = 300  # seconds, on a slow and busy machine
# Gradio's own: what it says where a browser lacks a method, and the end of a stream of events.
KNOWN = re.compile(r"warning: Method not implemented|failed: .*/gradio_api/.*ERR_ABORTED")


@pytest.fixture(scope="session")
def python(tmp_path_factory) -> Path:
    """A Python that has Gradio: this one, or a new environment that sees this one's libraries.

    Gradio caps Pillow below the release that the tests run with.
    """
    if importlib.util.find_spec("gradio"):
        return Path(sys.executable)
    folder = tmp_path_factory.mktemp("gradio")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    found = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    libraries = sysconfig.get_path("purelib")
    # The libraries' own .pth files too: one of them is this package, which is being developed.
    (site / "zz.pth").write_text(f"import site; site.addsitedir({libraries!r})\n")
    present = run(sys.executable, "-m", "uv", "pip", "freeze", "--python", sys.executable)
    kept = [line for line in present.splitlines() if "==" in line and not line.startswith("pillow")]
    (folder / "kept.txt").write_text("\n".join(kept))
    words = ("pip", "install", "--quiet", "--python", found, "-c", folder / "kept.txt")
    try:
        run(sys.executable, "-m", "uv", *words, "gradio>=6.31,<7")
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Gradio cannot be installed: {str(error).strip().splitlines()[-1]}")
    return found


def run(*command: object) -> str:
    words = [str(word) for word in command]
    answer = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, f"{words}\n{answer.stderr}"
    return answer.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def address(python, browser, checkpoint, tmp_path_factory) -> Iterator[str]:
    """The address of a page that is being served; `browser` first, which may not be there."""
    folder = tmp_path_factory.mktemp("app")
    limits = ["--max-bytes", str(MOST_BYTES), "--max-pixels", str(MOST_PIXELS)]
    command = ["-m", "sparsevit_plugin", "app", "--checkpoint", checkpoint, "--device", "cpu"]
    temporary, confined = folder / "tmp", folder / "data"
    temporary.mkdir()
    confined.mkdir()
    # Uploads lie outside what data is confined to, and are read.
    words = [str(word) for word in (python, *command, *limits, "--confine", confined)]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=folder)
    until = time.monotonic() + START
    found = None
    while found is None and process.poll() is None and time.monotonic() < until:
        found = re.search(r"at (http://\S+)", (folder / "log").read_text())
        time.sleep(0.2)
    text = (folder / "log").read_text()
    assert found, f"no page after {START} s: {text}"
    yield found[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert list(temporary.glob("benco-app-*")) == []
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture
def app(open_page, address):
    seen = open_page(address, accept_downloads=True)
    seen.page.locator("#photograph input[type=file]").wait_for(state="attached")
    return seen


def drop(app, file: Path) -> None:
    if app.page.locator("#photograph .file").count():
        app.page.locator("#photograph").get_by_label("Clear").first.click()
        app.page.locator("#answer", has_text="No photograph yet").wait_for()
    app.page.set_input_files("#photograph input[type=file]", str(file))


def downloaded(app, button: str) -> tuple[str, np.ndarray]:
    app.page.locator(f"{button}:not([disabled])").wait_for()
    with app.page.expect_download() as waiting:
        app.page.click(button)
    return waiting.value.suggested_filename, np.asarray(Image.open(waiting.value.path()))


def test_a_photograph_is_shown_at_every_threshold(app, address, checkpoint, tmp_path):
    photo = tmp_path / "beach 海滩.png"
    Image.fromarray(photo_array(80, 120, 5)).save(photo)
    wanted = Localiser(checkpoint, device="cpu")(photo)
    drop(app, photo)
    answer = app.page.locator("#answer")
    answer.get_by_text("beach").wait_for()
    assert f"Score {wanted.score:.3f}" in answer.inner_text()
    assert f"{wanted.mask.sum():,} of 9,600 pixels" in answer.inner_text()
    for name in ("#overlay", "#map", "#mask"):
        picture = app.page.locator(f"{name} img")
        picture.wait_for()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 120
    name, the_map = downloaded(app, "#save-map")
    assert name.endswith("-map.png")
    np.testing.assert_array_equal(the_map, np.rint(wanted.map.astype(float) * 255))
    threshold = float(np.round(np.median(wanted.map), 2))
    box = app.page.locator("#threshold input[type=number]")
    box.fill(str(threshold))
    box.press("Enter")
    app.page.locator("#answer", has_text=f"are above {threshold:.2f}").wait_for()
    mask = wanted.map > np.float32(threshold)
    assert f"{mask.sum():,} of 9,600 pixels" in answer.inner_text()
    name, found = downloaded(app, "#save-mask")
    assert f"above-{threshold:.2f}-mask" in name
    np.testing.assert_array_equal(found, mask * 255)
    assert {urlsplit(one).netloc for one in app.network} == {urlsplit(address).netloc}
    assert [one for one in app.problems if not KNOWN.match(one)] == []


def test_what_cannot_be_used_is_said_on_the_page(app, tmp_path, make_photo):
    alert = app.page.locator("#answer [role=alert]")
    (tmp_path / "note.jpg").write_text("a note")
    drop(app, tmp_path / "note.jpg")
    alert.get_by_text("note.jpg is a text file, not an image").wait_for()
    assert app.page.locator("#save-map").is_disabled()
    flat = np.full((500, 500, 3), 90, np.uint8)
    Image.fromarray(flat).save(tmp_path / "many.png")
    drop(app, tmp_path / "many.png")
    alert.get_by_text("many.png has too many pixels: 500 x 500").wait_for()
    (tmp_path / "large.png").write_bytes(bytes(MOST_BYTES + 1))
    drop(app, tmp_path / "large.png")
    app.page.get_by_text("exceed the maximum allowed size").first.wait_for()
    app.page.set_input_files("#photograph input[type=file]", str(make_photo(tmp_path / "ok.png")))
    app.page.locator("#answer", has_text="Score").wait_for()


def test_a_threshold_that_is_none_becomes_the_nearest(app, make_photo, tmp_path):
    drop(app, make_photo(tmp_path / "a.png"))
    answer, box = app.page.locator("#answer"), app.page.locator("#threshold input[type=number]")
    answer.get_by_text("are above 0.50").wait_for()
    # The server's log, read where the server is stopped, tells what it made of them.
    for typed, shown in (("7", "1.00"), ("", "0.00"), ("0.3", "0.30")):
        box.fill(typed)
        app.page.locator("#answer", has_text=f"are above {shown}").wait_for()
        box.blur()
    assert "Error" not in answer.inner_text()


def test_the_page_fits_a_phone_in_the_dark(open_page, address, make_photo, tmp_path):
    seen = open_page(address, width=375, height=800, scheme="dark")
    seen.page.locator("#photograph input[type=file]").wait_for(state="attached")
    drop(seen, make_photo(tmp_path / "a.png"))
    seen.page.locator("#mask img").wait_for()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 375
