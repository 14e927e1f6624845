"""Data by contents: for `--verify`, which trusts neither a file's time nor its size."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from sparsevit_plugin.files import sha256_file
from sparsevit_plugin.harness.progress import Progress
from sparsevit_plugin.harness.sources import NEGATIVE, Source, parts_of


def content_fingerprint(source: Source) -> str:
    """Return a hash over the names and the contents of a set's files; every file is read.

    Args:
        source: The set.

    Returns:
        64 hexadecimal digits, the same for a copy of the set wherever it is.

    Raises:
        UserError: A file cannot be read.
    """
    parts = parts_of(source)
    samples = [(part.name, sample) for part in parts for sample in part.samples]
    files = [f for _, s in samples for f in (s.image, s.mask) if f is not None]
    label = f"reading {source.name} to verify it"
    hashes = {}
    with Progress(len(files), label) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, value in zip(files, pool.map(sha256_file, files), strict=True):
            hashes[file] = value
            progress.advance()
    digest = hashlib.sha256()
    for part, sample in samples:
        mask = NEGATIVE if sample.mask is None else hashes[sample.mask]
        digest.update(f"{part}\0{sample.name}\0{hashes[sample.image]}\0{mask}\0".encode())
    return digest.hexdigest()
