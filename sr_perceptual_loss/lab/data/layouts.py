"""KADID-10k, TID2013, PIPAL and QADS: one reader and a table of their layouts.

In these sets the name of a distorted image tells its reference and its type of distortion.

Sources: KADID-10k: Lin et al., QoMEX 2019 (higher is better, although the column is called dmos). TID2013:
Ponomarenko et al., Signal Processing: Image Communication 30, 2015. PIPAL: Gu et al., ECCV 2020. QADS: Zhou et al.,
IEEE TIP 28, 2019.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from sr_perceptual_loss.lab.data.folders import list_folder
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import DatasetCard, Reader
from sr_perceptual_loss.lab.data.rows import Row, base_name, is_iqa_list, read_rows

__all__ = ["LAYOUTS", "Layout", "read_layout"]


@dataclass(frozen=True)
class Layout:
    """Files of a data set."""

    card: DatasetCard  # of the data set
    labels: tuple[str, ...]  # label file, or folder of ``.txt`` files, under the root; the first that exists is used
    columns: tuple[str, ...]  # of the label files; empty if their first line is a header
    separator: str | None  # between the columns; None for white space
    roles: tuple[str, str, str]  # names of the columns with distorted image, reference ("" for none) and score
    # Name of a distorted image with the groups ``content`` and ``kind``; without regard to case, the content is written
    # in lower case.
    name: re.Pattern[str]
    example: str  # a name, for messages
    images: tuple[str, ...]  # folders of the distorted images, under the root
    references: tuple[str, ...]  # folders of the references; the first that exists is used
    reference: str  # name of the reference, made of ``{content}`` and the distorted image's ``{suffix}``
    distortions: tuple[str, ...] | str  # names of the types by ``kind``, from 1, or one text with ``{kind}``
    deep: bool = False  # distorted images may lie in sub-folders
    notes: tuple[str, ...] = ()  # what a user must know


def read_layout(layout: Layout, reader: Reader, labels: Path | None) -> LabelSet:
    """Read one of :data:`LAYOUTS`.

    ``labels`` is a label file, a folder of them, or a list in the form of IQA-Dataset; the published place by default.
    Without images on this machine the folder of a distorted image is assumed where there are several.
    """
    images = reader.folder(*layout.images, every=True, deep=layout.deep)
    references = reader.folder(*layout.references)
    for row, dist, ref, score in _entries(layout, reader, labels):
        name = layout.name.fullmatch(dist)
        if name is None:
            reader.problem(row, f"got the image name '{dist}', expected one like {layout.example}.")
            continue
        content = name["content"].lower() if layout.name.flags & re.IGNORECASE else name["content"]
        if ref and PurePath(ref).stem.lower() != content.lower():
            reader.problem(row, f"{dist} belongs to {content} by its name but to {ref} by its row.")
            continue
        reader.rate(
            row,
            score,
            content=content,
            dist=images.find(dist, row),
            ref=references.find(ref or layout.reference.format(content=content, suffix=PurePath(dist).suffix), row),
            distortion=_distortion(layout, name["kind"]),
        )
    return reader.label_set(notes=layout.notes)


def _distortion(layout: Layout, kind: str | None) -> str:
    if kind is None:
        return ""
    if isinstance(layout.distortions, str):
        return layout.distortions.format(kind=kind)
    number = int(kind)
    return layout.distortions[number - 1] if 1 <= number <= len(layout.distortions) else f"type {number}"


def _entries(layout: Layout, reader: Reader, labels: Path | None) -> Iterator[tuple[Row, str, str, str]]:
    """(row, distorted image, reference or "", score) of all label files."""
    if labels is None:
        places = [reader.root / name for name in layout.labels]
        labels = next((place for place in places if place.exists()), places[0])
    files = list_folder(labels, (".txt",)).files if labels.is_dir() else [labels]
    if not files:
        reader.problems.add(labels, None, "the folder has no label files (.txt).")
    for file in files:
        columns, separator, roles = layout.columns, layout.separator, layout.roles
        if is_iqa_list(file):
            columns, separator, roles = (), ",", ("dis_img_path", "ref_img_path", "score")
        header, rows = read_rows(file, reader.problems, columns, separator)
        wanted = [name for name in roles if name]
        if not set(wanted) <= set(header):
            if header:
                reader.problems.add(file, 1, f"got the header {','.join(header)}, expected {','.join(wanted)}.")
            continue
        for row in rows:
            dist, ref, score = (row.cells[header.index(name)] if name else "" for name in roles)
            yield row, base_name(dist), base_name(ref), score


KADID10K = Layout(
    card=DatasetCard(
        name="kadid10k",
        score_range=(1.0, 5.0),
        url="http://database.mmsp-kn.de/kadid-10k-database.html",
        layout="images/ and dmos.csv (header dist_img,ref_img,dmos,var)",
    ),
    labels=("dmos.csv",),
    columns=(),
    separator=",",
    roles=("dist_img", "ref_img", "dmos"),
    name=re.compile(r"(?P<content>I\d+)_(?P<kind>\d\d)_\d\d\.\w+"),
    example="I01_01_01.png (image, type, level)",
    images=("images",),
    references=("images",),
    reference="{content}.png",
    distortions=(
        "gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation",
        "saturation hsv", "saturation lab", "jpeg2000", "jpeg", "white noise", "white noise in ycbcr", "impulse noise",
        "multiplicative noise", "denoising", "brighten", "darken", "mean shift", "jitter", "non-eccentricity patch",
        "pixelate", "quantisation", "colour block", "high sharpen", "contrast change",
    ),
)  # fmt: skip

TID2013 = Layout(
    card=DatasetCard(
        name="tid2013",
        score_range=(0.0, 9.0),
        url="https://www.ponomarenko.info/tid2013.htm",
        layout="reference_images/, distorted_images/ and mos_with_names.txt (lines 'MOS name')",
    ),
    labels=("mos_with_names.txt",),
    columns=("MOS", "name"),
    separator=None,
    roles=("name", "", "MOS"),
    name=re.compile(r"(?P<content>i\d\d)_(?P<kind>\d\d)_\d\.\w+", re.IGNORECASE),
    example="i01_01_1.bmp (image, type, level)",
    images=("distorted_images",),
    references=("reference_images",),
    reference="{content}.bmp",
    distortions=(
        "gaussian noise", "colour noise", "spatially correlated noise", "masked noise", "high frequency noise",
        "impulse noise", "quantisation noise", "gaussian blur", "denoising", "jpeg", "jpeg2000",
        "jpeg transmission errors", "jpeg2000 transmission errors", "non-eccentricity pattern noise",
        "local block-wise distortion", "mean shift", "contrast change", "colour saturation",
        "multiplicative gaussian noise", "comfort noise", "lossy compression of noisy images",
        "colour quantisation with dither", "chromatic aberrations", "sparse sampling and reconstruction",
    ),
)  # fmt: skip

PIPAL = Layout(
    card=DatasetCard(
        name="pipal",
        score_range=None,
        url="https://github.com/HaomingCai/PIPAL-dataset",
        layout="Train_Ref/ (or Reference_train/), Distortion_1/ to Distortion_4/ and Train_Label/ (or "
        "MOS_Scores_train/)",
    ),
    labels=("Train_Label", "MOS_Scores_train"),
    columns=("name", "score"),
    separator=",",
    roles=("name", "", "score"),
    name=re.compile(r"(?P<content>A\d+)_(?P<kind>\d+)_\d+\.\w+"),
    example="A0001_00_00.bmp (image, group, version)",
    images=("Distortion_1", "Distortion_2", "Distortion_3", "Distortion_4"),
    references=("Train_Ref", "Reference_train"),
    reference="{content}{suffix}",
    distortions="group {kind}",
    notes=("Elo is an open scale: the score range is that of the labels.",),
)

QADS = Layout(
    card=DatasetCard(
        name="qads",
        score_range=None,
        url="http://www.vista.ac.cn/super-resolution/",
        layout="source_images/, super-resolved_images/ (flat, or with sub-folders imgNN/) and mos_with_names.txt "
        "(lines 'MOS name')",
    ),
    labels=("mos_with_names.txt",),
    columns=("MOS", "name"),
    separator=None,
    roles=("name", "", "MOS"),
    name=re.compile(r"(?P<content>img\d\d)_(?:\d+_0*(?P<kind>\d+)|.+)\.\w+"),
    example="img01_2_1.bmp (image, scale, SR method)",
    images=("super-resolved_images",),
    references=("source_images",),
    reference="{content}.bmp",
    distortions="method {kind}",
    deep=True,
    notes=("The ends of the scale are not documented: the score range is that of the labels.",),
)

#: All layouts by the name of the data set.
LAYOUTS = {layout.card.name: layout for layout in (KADID10K, TID2013, PIPAL, QADS)}
