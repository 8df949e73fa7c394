"""What is wrong with a data set comes in one report, each fault with file and line."""

from __future__ import annotations

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import Problems
from sr_perceptual_loss.lab.data.registry import read_labels

KADID = "dist_img,ref_img,dmos,var"


def report(name, root, **options):
    """Lines of the report, without the heading and the root."""
    with pytest.raises(InputError) as caught:
        read_labels(name, root.path, **options)
    heading, *lines = str(caught.value).split("\n")
    assert heading == f"{name}: {len(lines)} problem(s) in the data set:"
    return [line.strip().replace(f"{root.path}/", "").replace(str(root.path), "ROOT") for line in lines]


def test_all_kinds_at_once_with_their_lines(root):
    root.images("images/I01.png", "images/I01_01_01.png")
    good = "I01_01_01.png,I01.png,4.57,0.5"
    bad = [
        good,
        "I01_01_02.png,I01.png,4.2",
        "I01_01_03.png,I01.png,abc,0.5",
        "I01_01_04.png,I01.png,nan,0.5",
        "I01_01_05.png,I01.png,inf,0.5",
        "I01_02_01.png,I01.png,5.7,0.5",
        "blur.png,I01.png,4,0.5",
        "I02_01_01.png,I01.png,4,0.5",
    ]
    root.text("dmos.csv", KADID, good, "", *bad)
    lines = report("kadid10k", root)
    assert lines == [
        "dmos.csv, line 5: got 3 column(s), the header has 4: dist_img,ref_img,dmos,var.",
        "dmos.csv, line 4: I01_01_01.png again; it is in line 2 already.",
        "dmos.csv, line 6: score: got 'abc', expected a number.",
        "dmos.csv, line 7: score: got 'nan', expected a finite number.",
        "dmos.csv, line 8: score: got 'inf', expected a finite number.",
        "dmos.csv, line 9: score: got 5.7, expected 1 to 5.",
        "dmos.csv, line 10: got the image name 'blur.png', expected one like I01_01_01.png (picture, type, level).",
        "dmos.csv, line 11: I02_01_01.png belongs to I02 by its name, to I01.png by its row; expected one picture.",
        "dmos.csv, line 6: 4 of 6 images are missing in images: I01_01_03.png (line 6), I01_01_04.png (line 7), "
        "I01_01_05.png (line 8), I01_02_01.png (line 9)",
    ]


def test_missing_images_are_one_entry_with_their_number(root):
    root.images("images/I01.png")
    root.text("dmos.csv", KADID, *(f"I01_01_{i:02}.png,I01.png,4,0.5" for i in range(1, 9)))
    (line,) = report("kadid10k", root)
    assert line.startswith("dmos.csv, line 2: 8 of 9 images are missing in images: I01_01_01.png (line 2), ")
    assert line.endswith("I01_01_05.png (line 6), ...")
    assert len(read_labels("kadid10k", root.path, check_images=False).rated) == 8


def test_a_folder_is_listed_once(root, monkeypatch):
    import os

    root.images("images/I01.png", *(f"images/I01_01_{i:02}.png" for i in range(1, 6)))
    root.text("dmos.csv", KADID, *(f"I01_01_{i:02}.png,I01.png,4,0.5" for i in range(1, 6)))
    walked = []
    real = os.walk
    monkeypatch.setattr(os, "walk", lambda top, *args, **options: walked.append(top) or real(top, *args, **options))
    read_labels("kadid10k", root.path)
    assert walked == [root / "images"]


def test_missing_folder_label_file_and_root(root):
    root.images("picture/I01.png")
    (line,) = report("kadid10k", root)
    assert line == "dmos.csv: label file not found; ROOT holds picture."
    root.text("dmos.csv", KADID, "I01_01_01.png,I01.png,4,0.5")
    (line,) = report("kadid10k", root)
    assert line == "ROOT: no folder images/; 2 images of the labels lie in it."
    with pytest.raises(
        InputError, match=r"kadid10k: no folder .*absent; expected images/ and dmos\.csv .* Get it from: "
    ):
        read_labels("kadid10k", root / "absent")
    with pytest.raises(InputError, match=r"dmos\.csv: label file not found; the folder .*absent does not exist either"):
        read_labels("kadid10k", root / "absent", check_images=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; expected one row per image."),
        (b"dist_img,ref_img,dmos,var\n", "the file has a header and no rows."),
        (b"\x89PNG\xff\xfe", "no readable text file ("),
        (b"dist,ref,mos\na,b,3\n", "got the header dist,ref,mos, expected dist_img,ref_img,dmos,var."),
    ],
)
def test_label_files_that_are_none(root, content, message):
    (root / "dmos.csv").write_bytes(content)
    (line,) = report("kadid10k", root)
    assert message in line and line.startswith("dmos.csv")


def test_a_long_report_ends_with_the_number_of_the_others(root):
    root.images("images/I01.png")
    root.text("dmos.csv", KADID, *(f"x{i}.png,I01.png,4,0.5" for i in range(30)))
    with pytest.raises(InputError) as caught:
        read_labels("kadid10k", root.path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "kadid10k: 30 problem(s) in the data set:"
    assert len(lines) == 1 + Problems.SHOWN + 1 and lines[-1] == "  ... and 10 more"


def test_names_that_are_there_twice(root):
    root.images("source_images/img01.bmp", "super-resolved_images/img01_2_1.bmp")
    root.images("super-resolved_images/img01/img01_2_1.bmp")
    root.text("mos_with_names.txt", "0.5  img01_2_1.bmp")
    (line,) = report("qads", root)
    assert line.startswith("mos_with_names.txt, line 1: img01_2_1.bmp is there 2 times: ")


def test_duplicates_across_files_name_both(root):
    root.images("Train_Ref/A0001.bmp", "Distortion_1/A0001_00_00.bmp")
    root.text("Train_Label/A0001.txt", "A0001_00_00.bmp,1500")
    root.text("Train_Label/A0002.txt", "A0001_00_00.bmp,1400", "A0001_00_00.bmp 1400", "A0002.bmp,1400")
    assert report("pipal", root) == [
        "Train_Label/A0002.txt, line 2: got 1 column(s): 'A0001_00_00.bmp 1400', expected 2: name,score.",
        "Train_Label/A0002.txt, line 1: A0001_00_00.bmp again; it is in Train_Label/A0001.txt, line 1 already.",
        "Train_Label/A0002.txt, line 3: got the image name 'A0002.bmp', expected one like A0001_00_00.bmp.",
    ]


def test_pipal_without_labels(root):
    root.images("Train_Ref/A0001.bmp")
    assert report("pipal", root) == ["ROOT: no label folder Train_Label/ or MOS_Scores_train/; give it with labels=."]
    (root / "Train_Label").mkdir()
    assert report("pipal", root) == ["Train_Label: no label files (A0001.txt, ...) in the folder."]


def test_tid2013_same_name_in_another_case_is_the_same_name(root):
    root.text("mos_with_names.txt", "3 i01_01_1.bmp", "4 I01_01_1.BMP", "9.5 i01_01_2.bmp", "5 I01.png.csv")
    assert report("tid2013", root, check_images=False) == [
        "mos_with_names.txt, line 2: I01_01_1.BMP again; it is in line 1 already.",
        "mos_with_names.txt, line 3: score: got 9.5, expected 0 to 9.",
        "mos_with_names.txt, line 4: got the image name 'I01.png.csv', expected one like i01_01_1.bmp (picture, type, "
        "level).",
    ]


def test_list_of_another_set(root):
    header = "dis_img_path,dis_type,ref_img_path,score"
    file = root.text("CSIQ.txt", header, "CSIQ/dst_imgs/AWGN/1600.AWGN.1.png,AWGN,CSIQ/src_imgs/1600.png,0.06")
    for name in ("kadid10k", "pipal", "tid2013"):
        (line,) = report(name, root, labels=file, check_images=False)
        assert line.startswith("CSIQ.txt, line 2: got the image name '1600.AWGN.1.png', expected one like ")


def test_isrgen_qa_swapped_columns_and_bad_names(root):
    root.text("train.txt", "ATD_x2_0813x2.png#0813x2.png#4", "ATD_x2_0820x2.png#0820x2.png#3")
    root.text("val.txt", "ATD_x2_0822x2.png#4#x2.png", "ATD_x2_0833x2.png#4", "ATD_x2_0834x2.png#0.5#0834x2.png")
    lines = report("isrgen_qa", root, check_images=False)
    assert len(lines) == 5
    assert lines[0].startswith(
        "train.txt, line 1: column 3 holds the score in 2 of 2 lines; train.txt has the columns SR#MOS#LR."
    )
    assert lines[1] == "val.txt, line 2: got 2 column(s): 'ATD_x2_0833x2.png#4', expected 3: SR#MOS#LR."
    assert lines[2].startswith("val.txt, line 1: got the LR name 'x2.png', expected four digits first")
    assert lines[3] == "val.txt, line 3: score: got 0.5, expected 1 to 5."
    assert lines[4].startswith("test.txt: label file not found; ROOT holds train.txt, val.txt")


def test_isrgen_qa_file_whose_name_does_not_tell_the_order(root):
    file = root.text("mine.txt", "ATD_x2_0813x2.png#4#0813x2.png")
    (line,) = report("isrgen_qa", root, labels=file, check_images=False)
    assert line.startswith("mine.txt: expected a file called train.txt, val.txt or test.txt")


def test_sriqa_bench_names_and_folders(root):
    assert report("sriqa_bench", root)[0].startswith("MOS: expected a folder of label files <id>.txt")
    root.text(
        "MOS/online1.txt", "online2_SeeSR.png,50", "online1_SeeSR.png,101", "SeeSR.png,5", "online1_PASD.png,worst"
    )
    assert report("sriqa_bench", root, check_images=False) == [
        "MOS/online1.txt, line 1: got the image name 'online2_SeeSR.png', expected online1_<method>.png.",
        "MOS/online1.txt, line 2: score: got 101, expected 0 to 100.",
        "MOS/online1.txt, line 3: got the image name 'SeeSR.png', expected online1_<method>.png.",
        "MOS/online1.txt, line 4: score: got 'worst', expected a number.",
    ]


def test_pieapp_rows(root):
    root.text("train_reference_list.txt", "ref_1.png", "ref_2.png")
    root.text("val_reference_list.txt", "ref_1.png")
    header = "ref, distorted image A, distorted image B, raw, processed"
    pairs = [
        "ref_1.png,a.png,b.png,,",
        "ref_1.png,a.png,a.png,1,1",
        "ref_9.png,a.png,b.png,1,1",
        "ref_1.png,a.png,b.png,,1.5",
    ]
    root.text("labels/train/ref_1_pairwise_labels.csv", header, *pairs)
    root.text("labels/train/ref_2_pairwise_labels.csv", "ref_2.png,a.png,b.png,0.5", "ref_2.png,a.png,b.png,0.5")
    file = "labels/train/ref_1_pairwise_labels.csv"
    assert report("pieapp", root, check_images=False) == [
        f"{file}, line 2: both probabilities are blank; expected at least one.",
        f"{file}, line 3: a.png is compared with itself; expected two images.",
        f"{file}, line 4: got the reference 'ref_9.png', expected ref_1.png as in the name of the file.",
        f"{file}, line 5: probability of A: got 1.5, expected 0 to 1.",
        "labels/train/ref_2_pairwise_labels.csv, line 1: the first line holds a number (ref_2.png,a.png,b.png,0.5), "
        "expected a header.",
        "val_reference_list.txt, line 1: ref_1.png is in val and in train; expected each reference once.",
    ]


def test_pieapp_missing_files(root):
    assert report("pieapp", root)[0].startswith("labels: no part of the set here; expected reference_images/<part>/")
    root.text("test_reference_list.txt", "ref_3.png")
    root.text("labels/test/ref_3_pairwise_labels.csv", "r,a,b,p", "ref_3.png,x.png,y.png,0.5")
    root.images("distorted_images/test/ref_3/x.png")
    assert report("pieapp", root) == [
        "labels/test/ref_3_per_image_score.csv: label file not found; labels/test holds ref_3_pairwise_labels.csv.",
        "labels/test/ref_3_pairwise_labels.csv, line 2: 1 of 2 images are missing in "
        "distorted_images/test/ref_3: y.png (line 2)",
        "ROOT: no folder reference_images/test/; 1 images of the labels lie in it.",
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("ref,dist,dmos", "no column score or mos; dmos may have either direction: call the column score once"),
        ("ref,score", "no column dist or dist_name"),
        ("ref,dist,score,mos", "2 columns for score: score, mos; leave one."),
        ("dis_img_path,dis_type,ref_img_path,score", "this is a list of IQA-Dataset, whose scores have the direction"),
    ],
)
def test_table_headers(root, header, message):
    root.text("t.csv", header, ",".join("1" for _ in header.split(",")))
    (line,) = report("table", root)
    assert line.startswith("t.csv, line 1: ") and message in line


def test_table_rows_and_number_of_tables(root):
    root.images("a.png")
    root.text("t.csv", "ref,dist,score", "a.png,b.png,1", "a.png,,1", "a.png,b.png,2")
    assert report("table", root) == [
        "t.csv, line 3: blank: dist; expected a value.",
        "t.csv, line 4: b.png again; it is in line 2 already.",
        "t.csv, line 2: 1 of 2 images are missing in ROOT: b.png (line 2)",
    ]
    root.text("u.csv", "ref,dist,score")
    (line,) = report("table", root)
    assert line == "ROOT: expected one .csv file, got 2: t.csv, u.csv; give the table with labels=."


def test_names_and_fields_that_no_file_can_have(root):
    """Found by the fuzzers: a field of more than 128 KiB, folders with a name too long or a zero in it."""
    root.text("dmos.csv", KADID, "x" * 140_000 + ",I01.png,4,0.5")
    with pytest.raises(InputError, match=r"dmos\.csv, line 2: no comma-separated row \(field larger than"):
        read_labels("kadid10k", root.path, check_images=False)
    for folder in ("a" * 300, "a\0b"):
        root.text("mine.csv", "ref,dist,score", f"{folder}/r.png,d.png,1")
        with pytest.raises(InputError, match="no folder"):
            read_labels("table", root.path, labels=root / "mine.csv")
    root.text("test_reference_list.txt", "a\0b.png")
    with pytest.raises(InputError, match="no readable text file"):
        read_labels("pieapp", root.path, check_images=False)
