"""Coverage-guided fuzzing of the readers: ``python -m fuzzing.atheris_targets weights|labels FOLDER -runs=20000``.

Run by test_coverage_guided.py with ``tests/`` on the path. FOLDER gets the corpus; libFuzzer's own options follow it.
Instrumented are our readers, not the libraries behind them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sr_perceptual_loss.weights", "sr_perceptual_loss.lab.data"]):
    from fuzzing.bytes_of_files import IQA_LIST, LABELS, read_label_bytes, read_weight_bytes, weight_seeds

PLACES = [(name, file) for name, files in LABELS.items() for file in files]


def weights(content: bytes) -> None:
    read_weight_bytes(content, SCRATCH)


def labels(content: bytes) -> None:
    """The first byte chooses the reader and the file."""
    if content:
        name, file = PLACES[content[0] % len(PLACES)]
        read_label_bytes(name, file, content[1:], SCRATCH)


def seeds(target: str) -> list[bytes]:
    if target == "weights":
        return weight_seeds()
    return [bytes([i]) + text for i, (name, file) in enumerate(PLACES) for text in (LABELS[name][file], IQA_LIST)]


if __name__ == "__main__":
    target, corpus, *options = sys.argv[1:]
    SCRATCH = Path(tempfile.mkdtemp())
    for number, seed in enumerate(seeds(target)):
        (Path(corpus) / f"seed{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *options], {"weights": weights, "labels": labels}[target])
    atheris.Fuzz()
