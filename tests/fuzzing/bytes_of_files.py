"""What both fuzzers (hypothesis and atheris) do with the bytes of a file, and valid files to start from.

A reader may return a result or raise one of the package's errors; any other exception is a fault.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import torch
from safetensors.torch import save

from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.lab.data.registry import read_labels
from sr_perceptual_loss.weights.checkpoint import read_checkpoint, state_dict_in
from sr_perceptual_loss.weights.file import read

__all__ = ["LABELS", "read_label_bytes", "read_weight_bytes", "weight_seeds"]


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """A file with this header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def weight_seeds() -> list[bytes]:
    """Valid files: ours, another project's, an empty one."""
    metadata = {"srpl.format": "1", "srpl.critic": "small", "srpl.config": '{"width": 2, "mean": [0.5, 0.5]}'}
    tensors = {"body.weight": torch.arange(6.0).reshape(2, 3), "body.count": torch.tensor(7)}
    return [save(tensors, metadata), save(tensors), save({}, metadata), safetensors_bytes({"__metadata__": metadata})]


def read_weight_bytes(content: bytes, folder: Path) -> str:
    """Read the bytes as our file and as another checkpoint; "read" or "refused" for the first."""
    path = folder / "x.safetensors"
    path.write_bytes(content)
    try:
        file = read(path)
        outcome = "read"
        assert isinstance(file.critic, str) and isinstance(file.config, dict)
        assert all(isinstance(value, torch.Tensor) for value in file.state.values())
    except WeightsError as error:
        outcome = "refused"
        assert str(path) in str(error)
    try:
        state_dict_in(read_checkpoint(path), path, {"body.weight": torch.zeros(2, 3)})
    except WeightsError as error:
        assert str(path) in str(error)
    return outcome


#: Reader -> (its label files, the folder or file to hand over): a complete small set each.
LABELS: dict[str, dict[str, bytes]] = {
    "kadid10k": {"dmos.csv": b"dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.5\nI02_25_05.png,I02.png,1,1\n"},
    "pipal": {"Train_Label/A0001.txt": b"A0001_00_00.bmp,1520.0648\nA0001_06_25.bmp,1348.9856\n"},
    "tid2013": {"mos_with_names.txt": b"3.86486 I01_01_5.bmp\n6.10000 i25_24_1.bmp\n"},
    "qads": {"mos_with_names.txt": b"0.12000  img01_2_1.bmp\n0.90000  img01_4_21.bmp\n"},
    "sriqa_bench": {"MOS/online15.txt": b"online15_SwinIRx4.png,0\nonline15_Original.png,55.5\n"},
    "table": {"mine.csv": b"ref,dist,score,content,split\na/r.png,a/d.png,0.5,one,train\nr.png,d.png,1e-3,two,val\n"},
    "isrgen_qa": {
        "train.txt": b"SwinIR_x4_0813.png#4.2#0813x4.png\n",
        "val.txt": b"SwinIR_x4_0814.png#1.25#0814x4.png\n",
        "test.txt": b"SwinIR_x4_0815.png#0815x4.png#3\n",
    },
    "pieapp": {
        "test_reference_list.txt": b"ref_1.png\n",
        "labels/test/ref_1_pairwise_labels.csv": b"ref,A,B,raw\nref_1.png,distort_1_blur_inter_1.png,ref_1.png,0.25\n",
        "labels/test/ref_1_per_image_score.csv": b"ref,image,score\nref_1.png,distort_1_blur_inter_1.png,2.5\n",
    },
}
#: A list in the format of IQA-Dataset, which three readers accept too.
IQA_LIST = (
    b"dis_img_path,dis_type,ref_img_path,score\nTID2013/d/i01_08_1.bmp,GBLUR,TID2013/reference_images/i01.bmp,5.5\n"
)


def read_label_bytes(name: str, file: str, content: bytes, folder: Path) -> str:
    """Read a set of which one label file has these bytes; "read" or "refused"."""
    root = folder / name
    for other, text in {**LABELS[name], file: content}.items():
        path = root / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    try:
        labels = read_labels(name, root, check_images=False)
    except InputError as error:
        assert str(root) in str(error)
        return "refused"
    assert all(math.isfinite(image.score) and image.content for image in labels.rated)
    assert all(0 <= vote.probability <= 1 for vote in labels.votes)
    assert all(math.isfinite(bound) for bound in labels.score_range)
    return "read"
