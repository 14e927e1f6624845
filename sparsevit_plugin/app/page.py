"""The page, laid out with Gradio."""

import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, TypeAlias

import gradio as gr

from sparsevit_plugin.app.looking import Limits, Look, View, forget, look, megabytes, millions, view
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.predict import Localiser

_LOG = logging.getLogger(__name__)
_STEP: Final = 0.01
_KEPT: Final = 3600  # seconds that a photograph's map is kept for its page
_SWEEP: Final = 600  # seconds between removals of what is older
_ON_PAGE: Final = 360  # pixels
_TITLE: Final = "Where was this photograph tampered with?"
_CAUTION: Final = (
    "A map is an estimate, no proof: authentic photographs get tampered pixels, and tampered ones "
    "may get none."
)
_WITHIN: Final = "Math.min(1, Math.max(0, Number({0}) || 0))"
"""JavaScript: a threshold within its limits. Gradio answers any other by a traceback."""

_HINT: Final = '<div class="benco-answer">No photograph yet.</div>'
CSS: Final = """
.benco-error {color: #b00020; font-weight: 600}
.dark .benco-error {color: #ff8a9a}
.benco-answer {line-height: 1.6}
footer {display: none !important}
"""

Updates: TypeAlias = tuple[Any, ...]
"""New values of components, in the order of an event's outputs."""


def build(localiser: Localiser, limits: Limits, folder: Path) -> gr.Blocks:
    """Lay out the page.

    Args:
        localiser: The model.
        limits: What is refused.
        folder: Where pictures are kept while the page is open.
    """
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(_SWEEP, _KEPT)) as blocks:
        gr.Markdown(f"# {_TITLE}\n\n{_about(localiser, limits)}")
        kept = gr.State(None, time_to_live=_KEPT, delete_callback=forget)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(
                    label="Photograph",
                    height=140,
                    elem_id="photograph",
                )
                threshold = gr.Slider(
                    0,
                    1,
                    value=localiser.threshold,
                    step=_STEP,
                    label="Threshold",
                    info="Pixels above it are called tampered. The model does not run again.",
                    elem_id="threshold",
                )
                answer = gr.HTML(_HINT, elem_id="answer")
                with gr.Row():
                    save_map = gr.DownloadButton(
                        "Download map", interactive=False, elem_id="save-map", size="md"
                    )
                    save_mask = gr.DownloadButton(
                        "Download mask", interactive=False, elem_id="save-mask", size="md"
                    )
            with gr.Column(scale=3, min_width=320):
                shown = _picture("Overlay", "overlay", "the photograph, coloured by the map")
                with gr.Row():
                    the_map = _picture("Map", "map", "the map: white is probably tampered")
                    mask = _picture("Mask", "mask", "the mask: white is above the threshold")
        of_threshold = [answer, shown, mask, save_mask]
        file.change(
            _Handler(localiser, limits, folder).photograph,
            [file, threshold, kept],
            [kept, the_map, save_map, *of_threshold],
            js=f"(file, threshold, kept) => [file, {_WITHIN.format('threshold')}, kept]",
            concurrency_limit=1,
            api_visibility="private",
        )
        threshold.change(
            _Handler(localiser, limits, folder).threshold,
            [threshold, kept],
            of_threshold,
            js=f"(threshold, kept) => [{_WITHIN.format('threshold')}, kept]",
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )
    return blocks


class _Handler:
    """What happens when something is done on the page."""

    def __init__(self, localiser: Localiser, limits: Limits, folder: Path) -> None:
        self.localiser = localiser
        self.limits = limits
        self.folder = folder

    def photograph(self, file: str | None, threshold: float, before: Look | None) -> Updates:
        """Predict on a photograph that was dropped; None when it was taken away."""
        forget(before)
        if file is None:
            return _nothing("")
        try:
            found = look(self.localiser, Path(file), self.limits, self.folder)
            at_threshold = view(found, threshold)
        except UserError as error:
            return _nothing(str(error))
        except (RuntimeError, MemoryError) as error:  # as a device whose memory is full
            _LOG.warning("%s: %s", Path(file).name, error)
            reason = str(error).strip().splitlines()
            return _nothing(f"The model failed on this photograph: {(reason or ['no memory'])[0]}")
        path = str(found.map_file)
        button = gr.update(value=path, interactive=True)
        return found, path, button, *_of(found, at_threshold, threshold)

    def threshold(self, threshold: float, kept: Look | None) -> Updates:
        """Show the same photograph at another threshold."""
        if kept is None:
            return (gr.skip(),) * 4
        return _of(kept, view(kept, threshold), threshold)


def _of(found: Look, seen: View, threshold: float) -> Updates:
    """Return the answer in words, overlay, mask and the mask's button."""
    prediction = found.prediction
    height, width = prediction.map.shape
    lines = (
        f"<b>Score {prediction.score:.3f}</b>: the model's probability that the photograph was "
        "tampered with",
        f"<b>Tampered area {seen.area:.2%}</b>: {seen.pixels:,} of {height * width:,} pixels are "
        f"above {threshold:.2f}",
        f"{escape(prediction.name)}: {width} x {height} pixels, {prediction.seconds:.2f} s",
    )
    mask = str(seen.mask_file)
    return (
        f'<div class="benco-answer" role="status">{"<br>".join(lines)}</div>',
        str(seen.overlay_file),
        mask,
        gr.update(value=mask, interactive=True),
    )


def _nothing(reason: str) -> Updates:
    """Return a page without a photograph, and why."""
    alert = f'<div class="benco-error" role="alert">{escape(reason)}</div>' if reason else _HINT
    button = gr.update(value=None, interactive=False)
    return None, None, button, alert, None, None, button


def _picture(label: str, name: str, words: str) -> gr.Image:
    return gr.Image(
        label=label,
        elem_id=name,
        interactive=False,
        height=_ON_PAGE,
        buttons=["fullscreen"],
        alt_text=words,
        image_mode=None,
    )


def _about(localiser: Localiser, limits: Limits) -> str:
    cfg = localiser.config
    sentences: Sequence[str] = (
        f"Model: **{cfg.model}**, weights `{localiser.checkpoint['sha256'][:12]}`.",
        f"Photographs up to {megabytes(limits.bytes)} and {millions(limits.pixels)} pixels; they "
        "go to the machine that serves this page and nowhere else, and are gone when it stops.",
        _CAUTION,
    )
    return " ".join(sentences)
