"""Serving the page: on this machine alone, unless another host is given; without a network."""

import ipaddress
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sparsevit_plugin.app.looking import Limits
from sparsevit_plugin.confinement import also_readable
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.predict import Localiser

FIRST_PORT: Final = 7860
_PORTS: Final = 100
_WAITING: Final = 16  # photographs in the queue
_PAUSE: Final = 0.5  # seconds


def is_loopback(host: str) -> bool:
    """Say whether a host means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int | None) -> int:
    """Return a port that can be listened on: the one that is given, else the first from 7860.

    Raises:
        UserError: The port is taken, or the host is none of this machine.
    """
    wanted = range(FIRST_PORT, FIRST_PORT + _PORTS) if port is None else [port]
    reason = ""
    for one in wanted:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, one, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return int(probe.getsockname()[1])
        except OSError as error:
            reason = error.strerror or str(error)
    ports = str(port) if port is not None else f"{FIRST_PORT} to {FIRST_PORT + _PORTS - 1}"
    raise UserError(f"--host {host} --port {ports}: cannot be listened on ({reason})")


def serve(
    localiser: Localiser,
    limits: Limits,
    *,
    host: str,
    port: int,
    started: Callable[[str], None],
) -> None:
    """Serve the page until the process is interrupted or asked to end.

    Pictures lie in a temporary folder that is removed at the end.

    Args:
        localiser: The model.
        limits: What is refused.
        host: Where to listen.
        port: A free port.
        started: Called with the page's address.
    """
    with tempfile.TemporaryDirectory(prefix="benco-app-") as folder, also_readable(folder):
        _stay_at_home(Path(folder) / "uploads", host)
        import gradio as gr

        from sparsevit_plugin.app.page import CSS, build

        blocks = build(localiser, limits, Path(folder) / "pictures")
        blocks.queue(max_size=_WAITING, default_concurrency_limit=2)
        # Fonts of the system: Gradio's own are fetched. Hints are darker than its light grey.
        plain = gr.themes.Default(
            font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
        ).set(
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
            block_label_text_color="*neutral_700",
            block_label_text_color_dark="*neutral_200",
        )
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=limits.bytes,
            ssr_mode=False,
            footer_links=[],
            theme=plain,
            css=CSS,
        )
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            started(str(blocks.local_url))
            while blocks.is_running:
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            pass  # this is how a server is stopped
        finally:
            blocks.close(verbose=False)


def _interrupt(*_: object) -> None:
    """End as Ctrl-C does, so that the temporary folder goes too."""
    raise KeyboardInterrupt


def _stay_at_home(uploads: Path, host: str) -> None:
    """Keep Gradio from telling anyone that it runs, and uploads in a folder of this run."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    # It asks itself whether it runs, which must not go through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, [known, "127.0.0.1", "localhost", host]))
