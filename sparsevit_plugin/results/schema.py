"""The columns of stored results, their types and their meaning.

A cell is one manifest on one image set under one perturbation. Its rows are in one Parquet file,
its histograms in another; `sample_name`, `score_at` and `evaluator` tell a cell's rows apart.

A manifest is a JSON object whose keys are free but for these:

=============== ==================================================================================
manifest_id     see `sparsevit_plugin.results.store.new_manifest_id`
model           the name that tables show
schema_version  added when it is written
checkpoint      `{"file", "sha256", "epoch"}`; empty for a model without trained weights
selection       how the checkpoint was chosen: val, last, test, none or unknown
pretraining     weights files, or a sentence: "none (random weights)", "none needed"
code_version    of this package
libraries       name to version
seed            of the training
series          the same for manifests that differ in nothing but the seed, the device and the copy
                of the data, see `sparsevit_plugin.protocol`; absent: a series of its own
group           heading of the rows that belong together, as "recipe sparsevit-paper"; may be empty
kind            "measured", or "external maps" for maps that were made elsewhere
complexity      `{"parameters", "macs", "counter", "image_size"}`, see `harness.complexity`
backend         what computed the maps; absent: torch, but for external maps
number_format   of that computation; absent: what `precision` says
training_data   name to fingerprint of each training set, or "unknown"
updates         of the weights that were due in the training up to the checkpoint; absent where it
                was not counted. `updates_left_out` of them were left out because gradients were not
                finite
=============== ==================================================================================

`created`, `command`, `config`, `device`, `precision`, `seed` and `world_size` are usual.
"""

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 2
"""Raised when a column changes its meaning or goes; readers refuse a newer one."""


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type and meaning."""

    name: str
    type: pa.DataType
    meaning: str


_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
# For words that repeat: categories in pandas, which compare and group fast.
_NAME = pa.dictionary(pa.int32(), pa.string())

_KEY = (
    Column("manifest_id", _NAME, "what was run: the manifest of that name"),
    Column("dataset", _NAME, "name of the image set"),
    Column("perturbation", _NAME, "done to the photographs before, as jpeg:75; none for nothing"),
    Column("sample_index", _INT, "place of the image in the set"),
    Column("sample_name", _TEXT, "path of the image, relative to the set's root"),
    Column("score_at", _NAME, "model: at the model's size; image: at the photograph's own"),
)

ROW_COLUMNS = (
    *_KEY,
    Column("evaluator", _NAME, "exact, or benco for IMDLBenCo's own evaluators"),
    Column("model", _NAME, "name of the model in tables"),
    Column("checkpoint", _NAME, "start of the checkpoint's SHA-256; empty without one"),
    Column("backend", _NAME, "what computed the map: torch, openvino, ...; null for external maps"),
    Column("number_format", _NAME, "of that computation: 32, bf16, int8, ...; null when unknown"),
    Column("epoch", _INT, "epoch of the checkpoint; null when unknown"),
    Column("photos", pa.list_(_TEXT), "source photographs, base first; empty when unknown"),
    Column("height", _INT, "of the scored map, pixels"),
    Column("width", _INT, "of the scored map, pixels"),
    Column("pixels", _INT, "pixels scored: those outside the border of padding"),
    Column("tampered_pixels", _INT, "of them tampered"),
    Column("label", _INT, "1 tampered, 0 authentic"),
    Column("score", _FLOAT, "image-level score; null when the model gives none"),
    Column("pooling", _NAME, "how the score was made from the map; 'model' when the model did"),
    Column("threshold", _FLOAT, "pixels and images with a greater value are predicted tampered"),
    Column("tp", _INT, "tampered pixels predicted tampered; null with benco"),
    Column("fp", _INT, "authentic pixels predicted tampered; null with benco"),
    Column("fn", _INT, "tampered pixels predicted authentic; null with benco"),
    Column("tn", _INT, "authentic pixels predicted authentic; null with benco"),
    Column("f1", _FLOAT, "pixel F1 at the threshold; NaN where undefined, as all that follow"),
    Column("precision", _FLOAT, "pixel precision at the threshold"),
    Column("recall", _FLOAT, "pixel recall at the threshold"),
    Column("iou", _FLOAT, "pixel IoU at the threshold"),
    Column("accuracy", _FLOAT, "pixel accuracy at the threshold"),
    Column("auc", _FLOAT, "area under the pixels' ROC curve"),
    Column("best_f1", _FLOAT, "largest pixel F1 over all thresholds"),
    Column("best_threshold", _FLOAT, "the largest threshold with that F1"),
    Column("predicted_area", _FLOAT, "share of the pixels predicted tampered"),
)

HISTOGRAM_COLUMNS = (
    *_KEY,
    Column("tampered", pa.list_(_INT), "tampered pixels in 256 bins, see harness.metrics.BINS"),
    Column("authentic", pa.list_(_INT), "authentic pixels in 256 bins"),
)


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """Return the columns as an Arrow schema, each with its meaning as metadata."""
    return pa.schema([pa.field(c.name, c.type, metadata={"meaning": c.meaning}) for c in columns])
