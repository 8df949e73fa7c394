"""What is wrong with a data set comes in one report, each problem with file and line."""

from __future__ import annotations

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.registry import read_labels
from sr_perceptual_loss.lab.data.rows import Problems

KADID = "dist_img,ref_img,dmos,var"


def report(name, root, **options):
    """Lines of the report, without the heading and the root."""
    with pytest.raises(InputError) as caught:
        read_labels(name, root.path, **options)
    heading, *lines = str(caught.value).split("\n")
    assert heading.startswith(f"{name}: {len(lines)} problem")
    return [line.strip().replace(f"{root.path}/", "").replace(str(root.path), "ROOT") for line in lines]


def check_report(lines, *expected):
    """One line per expected problem: (file and line, word, word, ...), in any order."""
    for place, *words in expected:
        matching = [line for line in lines if line.startswith(f"{place}: ") and all(word in line for word in words)]
        assert len(matching) == 1, (place, words, lines)
    assert len(lines) == len(expected), lines


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
    check_report(
        report("kadid10k", root),
        ("dmos.csv, line 4", "I01_01_01.png", "line 2"),
        ("dmos.csv, line 5", "3 column(s)", "expected 4"),
        ("dmos.csv, line 6", "'abc'"),
        ("dmos.csv, line 7", "'nan'"),
        ("dmos.csv, line 8", "'inf'"),
        ("dmos.csv, line 9", "5.7", "1 to 5"),
        ("dmos.csv, line 10", "'blur.png'", "I01_01_01.png"),
        ("dmos.csv, line 11", "I02", "I01.png"),
        ("dmos.csv, line 6", "4 of 6 images are missing", "I01_01_03.png (line 6)", "I01_02_01.png (line 9)"),
    )


def test_missing_images_are_one_entry_with_their_number(root):
    root.images("images/I01.png")
    root.text("dmos.csv", KADID, *(f"I01_01_{i:02}.png,I01.png,4,0.5" for i in range(1, 9)))
    (line,) = report("kadid10k", root)
    assert line.startswith("dmos.csv, line 2: 8 of 9 images are missing") and "I01_01_05.png (line 6)" in line
    assert "I01_01_06.png" not in line
    assert len(read_labels("kadid10k", root.path, check_images=False).rated) == 8


def test_missing_folder_label_file_and_root(root):
    root.images("picture/I01.png")
    check_report(report("kadid10k", root), ("dmos.csv", "not found"))
    root.text("dmos.csv", KADID, "I01_01_01.png,I01.png,4,0.5")
    check_report(report("kadid10k", root), ("ROOT", "images/", "2 images"))
    with pytest.raises(InputError, match=r"no folder .*absent; expected images/ and dmos\.csv .*http"):
        read_labels("kadid10k", root / "absent")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (KADID.encode(), "no rows"),
        (b"\x89PNG\xff\xfe", "text file"),
        (b"dist,ref,mos\na,b,3\n", "dmos"),
    ],
)
def test_files_that_are_not_label_files(root, content, word):
    (root / "dmos.csv").write_bytes(content)
    (line,) = report("kadid10k", root)
    assert word in line and line.startswith("dmos.csv")


def test_a_long_report_ends_with_the_number_of_the_others(root):
    root.images("images/I01.png")
    root.text("dmos.csv", KADID, *(f"x{i}.png,I01.png,4,0.5" for i in range(30)))
    with pytest.raises(InputError) as caught:
        read_labels("kadid10k", root.path)
    lines = str(caught.value).splitlines()
    assert "30 problem" in lines[0] and "10 more" in lines[-1]
    assert len(lines) == 1 + Problems.SHOWN + 1


def test_repeated_images(root):
    """Twice in the folders, twice in one file, in two files, in another case."""
    root.images("source_images/img01.bmp", "super-resolved_images/img01_2_1.bmp")
    root.images("super-resolved_images/img01/img01_2_1.bmp", "Train_Ref/A0001.bmp", "Distortion_1/A0001_00_00.bmp")
    root.text("mos_with_names.txt", "0.5  img01_2_1.bmp")
    check_report(report("qads", root), ("mos_with_names.txt, line 1", "img01_2_1.bmp", "2 times"))
    root.text("Train_Label/A0001.txt", "A0001_00_00.bmp,1500")
    root.text("Train_Label/A0002.txt", "A0001_00_00.bmp,1400", "A0001_00_00.bmp 1400", "A0002.bmp,1400")
    check_report(
        report("pipal", root),
        ("Train_Label/A0002.txt, line 1", "A0001_00_00.bmp", "Train_Label/A0001.txt, line 1"),
        ("Train_Label/A0002.txt, line 2", "1 column(s)", "name,score"),
        ("Train_Label/A0002.txt, line 3", "'A0002.bmp'"),
    )
    root.images("distorted_images/i01_01_1.bmp", "reference_images/i01.bmp")
    root.text("mos_with_names.txt", "3 i01_01_1.bmp", "4 I01_01_1.BMP", "9.5 i01_01_1.bmp", "5 I01.png.csv")
    check_report(
        report("tid2013", root),
        ("mos_with_names.txt, line 2", "i01_01_1.bmp", "line 1"),
        ("mos_with_names.txt, line 3", "9.5", "0 to 9"),
        ("mos_with_names.txt, line 3", "i01_01_1.bmp", "line 1"),
        ("mos_with_names.txt, line 4", "'I01.png.csv'"),
    )


def test_pipal_without_labels(root):
    root.images("Train_Ref/A0001.bmp")
    check_report(report("pipal", root), ("Train_Label", "not found"))
    (root / "Train_Label").mkdir()
    check_report(report("pipal", root), ("Train_Label", "no label files"))


def test_list_of_another_set(root):
    header = "dis_img_path,dis_type,ref_img_path,score"
    file = root.text("CSIQ.txt", header, "CSIQ/dst_imgs/AWGN/1600.AWGN.1.png,AWGN,CSIQ/src_imgs/1600.png,0.06")
    for name in ("kadid10k", "pipal", "tid2013"):
        check_report(report(name, root, labels=file, check_images=False), ("CSIQ.txt, line 2", "'1600.AWGN.1.png'"))
    check_report(report("table", root, labels=file, check_images=False), ("CSIQ.txt, line 1", "no column dist"))


def test_isrgen_qa(root):
    root.text("train.txt", "ATD_x2_0813x2.png#0813x2.png#4")  # the columns of the test file
    root.text("val.txt", "ATD_x2_0822x2.png#4#x2.png", "ATD_x2_0833x2.png#4", "ATD_x2_0834x2.png#0.5#0834x2.png")
    check_report(
        report("isrgen_qa", root, check_images=False),
        ("train.txt, line 1", "'4'", "SR#MOS#LR"),
        ("val.txt, line 1", "'x2.png'"),
        ("val.txt, line 2", "2 column(s)", "expected 3"),
        ("val.txt, line 3", "0.5", "1 to 5"),
        ("test.txt", "not found"),
    )
    file = root.text("mine.txt", "ATD_x2_0813x2.png#4#0813x2.png")  # the name does not tell the order of the columns
    check_report(report("isrgen_qa", root, labels=file, check_images=False), ("mine.txt", "train.txt"))


def test_sriqa_bench(root):
    assert report("sriqa_bench", root)[0].startswith("MOS: ")
    lines = ("online2_SeeSR.png,50", "online1_SeeSR.png,101", "SeeSR.png,5", "online1_PASD.png,worst")
    root.text("MOS/online1.txt", *lines)
    check_report(
        report("sriqa_bench", root, check_images=False),
        ("MOS/online1.txt, line 1", "'online2_SeeSR.png'"),
        ("MOS/online1.txt, line 2", "101", "0 to 100"),
        ("MOS/online1.txt, line 3", "'SeeSR.png'"),
        ("MOS/online1.txt, line 4", "'worst'"),
    )


def test_pieapp(root):
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
    check_report(
        report("pieapp", root, check_images=False),
        (f"{file}, line 2", "blank"),
        (f"{file}, line 3", "a.png", "itself"),
        (f"{file}, line 4", "'ref_9.png'", "ref_1.png"),
        (f"{file}, line 5", "1.5", "0 to 1"),
        ("labels/train/ref_2_pairwise_labels.csv, line 1", "header"),
        ("val_reference_list.txt, line 1", "ref_1.png", "train", "val"),
    )


def test_pieapp_missing_files(root):
    check_report(report("pieapp", root), ("labels", "reference_images/<part>/"))
    root.text("test_reference_list.txt", "ref_3.png")
    root.text("labels/test/ref_3_pairwise_labels.csv", "r,a,b,p", "ref_3.png,x.png,y.png,0.5")
    root.images("distorted_images/test/ref_3/x.png")
    check_report(
        report("pieapp", root),
        ("labels/test/ref_3_per_image_score.csv", "not found"),
        ("labels/test/ref_3_pairwise_labels.csv, line 2", "1 of 2 images", "y.png (line 2)"),
        ("ROOT", "reference_images/test/"),
    )


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("ref,dist,dmos", ("no column score or mos", "dmos")),
        ("ref,score", ("no column dist",)),
        ("ref,dist,score,mos", ("2 columns for score",)),
    ],
)
def test_table_headers(root, header, words):
    root.text("t.csv", header, ",".join("1" for _ in header.split(",")))
    check_report(report("table", root), ("t.csv, line 1", *words))


def test_table_rows_and_number_of_tables(root):
    root.images("a.png")
    root.text("t.csv", "ref,dist,score", "a.png,b.png,1", "a.png,,1", "a.png,b.png,2")
    check_report(
        report("table", root),
        ("t.csv, line 2", "1 of 2 images", "b.png (line 2)"),
        ("t.csv, line 3", "dist"),
        ("t.csv, line 4", "b.png", "line 2"),
    )
    root.text("u.csv", "ref,dist,score")
    check_report(report("table", root), ("ROOT", "t.csv, u.csv"))


def test_names_and_fields_that_no_file_can_have(root):
    """From the fuzzers: a field of more than 128 KiB, folders with a name too long or with a null character."""
    root.text("dmos.csv", KADID, "x" * 140_000 + ",I01.png,4,0.5")
    with pytest.raises(InputError, match=r"dmos\.csv, line 2: .*field larger than"):
        read_labels("kadid10k", root.path, check_images=False)
    for folder in ("a" * 300, "a\0b"):
        root.text("mine.csv", "ref,dist,score", f"{folder}/r.png,d.png,1")
        with pytest.raises(InputError, match="no folder"):
            read_labels("table", root.path, labels=root / "mine.csv")
    root.text("test_reference_list.txt", "a\0b.png")
    with pytest.raises(InputError, match="text file"):
        read_labels("pieapp", root.path, check_images=False)
