"""Every reader on a small copy of its set in the published layout: entries, direction, contents, split, notes."""

from __future__ import annotations

import pytest

from sr_perceptual_loss.errors import UnknownNameError
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.lab.data.registry import read_labels

LIST_HEADER = "dis_img_path,dis_type,ref_img_path,score"


def rows(labels):
    """(content, distorted image and reference by file name, score, distortion) of all entries."""
    return [(r.content, r.dist.name, r.ref.name, r.score, r.distortion) for r in labels.rated]


def check_images(labels):
    """Every path is a readable image."""
    for path in {p for r in labels.rated for p in (r.dist, r.ref)} | {
        p for v in labels.votes for p in (v.a, v.b, v.ref)
    }:
        assert read_image(path).shape == (3, 2, 2)


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(UnknownNameError, match="'kadid'.*'kadid10k'"):
        read_labels("kadid", "/nowhere")


def test_kadid10k(root):
    root.images("images/I01.png", "images/I01_01_01.png", "images/I02.png", "images/I02_25_05.png")
    root.text(
        "dmos.csv", "dist_img,ref_img,dmos,var", "I01_01_01.png,I01.png,4.57,0.496", "I02_25_05.png,I02.png,1.1,0.3"
    )
    labels = read_labels("kadid10k", str(root.path))
    assert rows(labels) == [
        ("I01", "I01_01_01.png", "I01.png", 4.57, "gaussian blur"),
        ("I02", "I02_25_05.png", "I02.png", 1.1, "contrast change"),
    ]
    assert (labels.name, labels.score_range, labels.comparable_across_contents) == ("kadid10k", (1.0, 5.0), True)
    assert labels.official_split == {} and labels.votes == ()
    check_images(labels)


def test_kadid10k_from_a_list_of_iqa_dataset(root, tmp_path):
    root.images("images/I01.png", "images/I01_01_01.png")
    row = "KADID-10k/images/I01_01_01.png,GBLUR,KADID-10k/images/I01.png,4.57"
    file = tmp_path / "KADID-10k.txt"
    file.write_text(f"\ufeff{LIST_HEADER}\r\n{row}\r\n", encoding="utf-8")
    labels = read_labels("kadid10k", root.path, labels=file)
    assert rows(labels) == [("I01", "I01_01_01.png", "I01.png", 4.57, "gaussian blur")]
    assert labels.rated[0].dist == root / "images/I01_01_01.png"


@pytest.mark.parametrize(
    ("refs", "scores", "separator"), [("Train_Ref", "Train_Label", ","), ("Reference_train", "MOS_Scores_train", ", ")]
)
def test_pipal_old_and_new_names(root, refs, scores, separator):
    root.images(
        f"{refs}/A0001.bmp", "Distortion_1/A0001_00_00.bmp", f"{refs}/A0200.bmp", "Distortion_4/A0200_06_25.bmp"
    )
    root.text(f"{scores}/A0001.txt", f"A0001_00_00.bmp{separator}1520.0648")
    root.text(f"{scores}/A0200.txt", f"A0200_06_25.bmp{separator}1348.9856")
    labels = read_labels("pipal", root.path)
    assert rows(labels) == [
        ("A0001", "A0001_00_00.bmp", "A0001.bmp", 1520.0648, "group 00"),
        ("A0200", "A0200_06_25.bmp", "A0200.bmp", 1348.9856, "group 06"),
    ]
    assert labels.rated[1].dist == root / "Distortion_4/A0200_06_25.bmp"
    assert labels.score_range == (1348.9856, 1520.0648)
    check_images(labels)


def test_pipal_from_one_file_and_from_a_list(root):
    root.images("Train_Ref/A0001.bmp", "Distortion_2/A0001_00_00.bmp")
    plain = root.text("all.txt", "A0001_00_00.bmp,1520.5")
    listed = root.text("list.txt", LIST_HEADER, "PIPAL/Distortion_1/A0001_00_00.bmp,x,PIPAL/Train_Ref/A0001.bmp,1520.5")
    assert read_labels("pipal", root.path, labels=plain) == read_labels("pipal", root.path, labels=listed)
    assert rows(read_labels("pipal", root.path, labels=plain))[0][3] == 1520.5


def test_tid2013_in_any_case(root):
    root.images("reference_images/I01.BMP", "distorted_images/i01_01_5.bmp")
    root.images("reference_images/i25.bmp", "distorted_images/I25_24_1.BMP")
    root.text("mos_with_names.txt", "3.86486 I01_01_5.bmp", "6.10000 i25_24_1.bmp")
    labels = read_labels("tid2013", root.path)
    assert rows(labels) == [
        ("i01", "i01_01_5.bmp", "I01.BMP", 3.86486, "gaussian noise"),
        ("i25", "I25_24_1.BMP", "i25.bmp", 6.1, "sparse sampling and reconstruction"),
    ]
    assert labels.score_range == (0.0, 9.0)
    check_images(labels)


def test_tid2013_from_a_list(root):
    file = root.text("TID2013.txt", LIST_HEADER, "TID2013/d/i01_08_1.bmp,GBLUR,TID2013/reference_images/i01.bmp,5.5143")
    labels = read_labels("tid2013", root.path, labels=file, check_images=False)
    assert rows(labels) == [("i01", "i01_08_1.bmp", "i01.bmp", 5.5143, "gaussian blur")]
    assert labels.rated[0].dist == root / "distorted_images/i01_08_1.bmp"


@pytest.mark.parametrize("folder", ["super-resolved_images", "super-resolved_images/img01"])
def test_qads_flat_and_nested(root, folder):
    root.images("source_images/img01.bmp", f"{folder}/img01_2_1.bmp", f"{folder}/img01_4_21.bmp")
    root.text("mos_with_names.txt", "0.12000  img01_2_1.bmp", "0.90000  img01_4_21.bmp")
    labels = read_labels("qads", root.path)
    assert rows(labels) == [
        ("img01", "img01_2_1.bmp", "img01.bmp", 0.12, "method 1"),
        ("img01", "img01_4_21.bmp", "img01.bmp", 0.9, "method 21"),
    ]
    assert labels.score_range == (0.12, 0.9)
    check_images(labels)


def test_sriqa_bench_with_a_folder_that_is_called_otherwise_than_its_files(root):
    root.images("images/Original/online15_Original.png", "images/SwinIR/online15_SwinIRx4.png")
    root.images("images/SeeSR/online15_SeeSR.png")
    lines = ("online15_SwinIRx4.png,0", "online15_SeeSR.png,100", "online15_Original.png,55.5")
    root.text("MOS/online15.txt", *lines)
    root.text("MOS_Gen/online15.txt", "name,score", "online15_SeeSR,100")
    labels = read_labels("sriqa_bench", root.path)
    assert rows(labels) == [
        ("online15", "online15_SwinIRx4.png", "online15_Original.png", 0.0, "SwinIRx4"),
        ("online15", "online15_SeeSR.png", "online15_Original.png", 100.0, "SeeSR"),
        ("online15", "online15_Original.png", "online15_Original.png", 55.5, "Original"),
    ]
    assert labels.rated[0].dist == root / "images/SwinIR/online15_SwinIRx4.png"
    assert not labels.comparable_across_contents and not labels.subset(["online15"]).comparable_across_contents
    check_images(labels)
    part = read_labels("sriqa_bench", root.path, labels=root / "MOS_Gen")
    assert rows(part) == [rows(labels)[1]]


@pytest.fixture
def isrgen(root):
    """LINF's number 801 is picture 0813; 0820 is in all three parts."""
    root.images("HR/0813.png", "HR/0820.png")
    root.images("SR/ATD_x2_0813x2.png", "SR/BFSR_EDSR-LINF_x4_801x4.png", "SR/SeD/SeD_RRDB-SeD_0820x4.png")
    root.images("SR/SwinIR_x4_0820x4.png", "SR/ATD_x3_0820x3.png")
    train = ("ATD_x2_0813x2.png#4#0813x2.png", "BFSR_EDSR-LINF_x4_801x4.png#2.95#0813x4.png")
    root.text("train.txt", *train, "SeD_RRDB-SeD_0820x4.png#3.5#0820x4.png", end="\r\n")
    root.text("val.txt", "ATD_x3_0820x3.png#1#0820x3.png", end="\r\n")
    root.text("test.txt", "SwinIR_x4_0820x4.png#0820x4.png#2.5", end="\r\n")
    return root


def test_isrgen_qa(isrgen):
    labels = read_labels("isrgen_qa", isrgen.path)
    assert rows(labels) == [
        ("0813", "ATD_x2_0813x2.png", "0813.png", 4.0, "ATD"),
        ("0813", "BFSR_EDSR-LINF_x4_801x4.png", "0813.png", 2.95, "BFSR_EDSR-LINF"),
        ("0820", "SeD_RRDB-SeD_0820x4.png", "0820.png", 3.5, "SeD_RRDB-SeD"),
        ("0820", "ATD_x3_0820x3.png", "0820.png", 1.0, "ATD"),
        ("0820", "SwinIR_x4_0820x4.png", "0820.png", 2.5, "SwinIR"),
    ]
    assert {part: len(labels.part(part).rated) for part in labels.official_split} == {"train": 3, "val": 1, "test": 1}
    (note,) = labels.notes
    assert "of 2 references, 2 in train, 1 in val, 1 in test" in note
    check_images(labels)


def test_isrgen_qa_one_part_alone(isrgen):
    labels = read_labels("isrgen_qa", isrgen.path, labels=isrgen / "test.txt")
    assert rows(labels) == [("0820", "SwinIR_x4_0820x4.png", "0820.png", 2.5, "SwinIR")]
    assert list(labels.official_split) == ["test"] and labels.notes == ()


@pytest.fixture
def pieapp(root):
    """One reference per part; a blank raw share in train, no processed one in the second row of val."""
    for part, n in (("train", 1), ("val", 2), ("test", 3)):
        root.text(f"{part}_reference_list.txt", f"ref_{n}.png")
        root.images(f"reference_images/{part}/ref_{n}.png")
        root.images(*(f"distorted_images/{part}/ref_{n}/distort_{n}_gauss_blur_inter_{i}.png" for i in range(2)))
    head = "ref image, distorted image A, distorted image B, raw p(A)"
    pair = "ref_{0}.png,distort_{0}_gauss_blur_inter_0.png,distort_{0}_gauss_blur_inter_1.png"
    root.text("labels/train/ref_1_pairwise_labels.csv", f"{head}, processed p(A)", pair.format(1) + ",,0.75")
    rows_of_val = (pair.format(2) + ",0.2,0.25", pair.format(2) + ",0.5,")
    root.text("labels/val/ref_2_pairwise_labels.csv", f"{head}, processed p(A)", *rows_of_val)
    against = "ref_3.png,ref_3.png,distort_3_gauss_blur_inter_1.png,1"
    root.text("labels/test/ref_3_pairwise_labels.csv", head, pair.format(3) + ",0.4", against)
    scores = ("ref_3.png,distort_3_gauss_blur_inter_0.png,2.5", "ref_3.png,distort_3_gauss_blur_inter_1.png,-0.5")
    root.text("labels/test/ref_3_per_image_score.csv", "ref, distorted image, score", *scores, "ref_3.png,ref_3.png,0")
    return root


def test_pieapp(pieapp):
    labels = read_labels("pieapp", pieapp.path)
    votes = [(v.content, v.a.name, v.b.name, v.ref.name, v.probability) for v in labels.votes]
    a, b = "distort_{}_gauss_blur_inter_0.png", "distort_{}_gauss_blur_inter_1.png"
    assert votes == [
        ("ref_1", a.format(1), b.format(1), "ref_1.png", 0.75),
        ("ref_2", a.format(2), b.format(2), "ref_2.png", 0.25),
        ("ref_2", a.format(2), b.format(2), "ref_2.png", 0.5),
        ("ref_3", a.format(3), b.format(3), "ref_3.png", 0.4),
        ("ref_3", "ref_3.png", b.format(3), "ref_3.png", 1.0),
    ]
    assert labels.votes[-1].a == pieapp / "reference_images/test/ref_3.png"
    assert rows(labels) == [
        ("ref_3", a.format(3), "ref_3.png", -2.5, "gauss_blur"),  # higher was worse in the file
        ("ref_3", b.format(3), "ref_3.png", 0.5, "gauss_blur"),
    ]
    assert labels.score_range == (-2.5, 0.5)
    assert {part: len(labels.part(part).votes) for part in labels.official_split} == {"train": 1, "val": 2, "test": 2}
    assert "2 use the processed probability" in labels.notes[0] and "3 the raw share" in labels.notes[0]
    check_images(labels)


def test_pieapp_without_a_part(pieapp):
    (pieapp / "train_reference_list.txt").unlink()
    (pieapp / "labels/train/ref_1_pairwise_labels.csv").unlink()
    (pieapp / "labels/train").rmdir()
    labels = read_labels("pieapp", pieapp.path)
    assert len(labels.votes) == 4 and list(labels.official_split) == ["val", "test"]
    assert labels.notes[-1] == "Not in this copy: train."


def test_table(root):
    root.images("hr/a.png", "sr/a_1.png", "sr/a_2.png")
    head = "ref,dist,score,std,distortion,content,official_split,camera"
    root.text("t.csv", head, "hr/a.png,sr/a_1.png,3,0.1,blur,A,train,x", "hr/a.png,sr/a_2.png,-1.5,0.2,,A,val,y")
    labels = read_labels("table", root.path)
    assert rows(labels) == [("A", "a_1.png", "a.png", 3.0, "blur"), ("A", "a_2.png", "a.png", -1.5, "")]
    assert labels.score_range == (-1.5, 3.0)
    assert [r.dist.name for r in labels.part("val").rated] == ["a_2.png"]
    assert labels.notes[-1] == "Columns not used: camera."
    check_images(labels)


def test_table_with_other_names_and_contents_by_reference(root):
    root.images("hr/1.png", "more/1.png", "sr/1.png", "sr/2.png")
    file = root.text("meta.txt", "ref_name,dist_name,mos", "hr\\1.png,sr\\1.png,3", "more/1.png,sr/2.png,4")
    labels = read_labels("table", root.path, labels=file)
    assert [(r.content, r.dist, r.score) for r in labels.rated] == [
        ("hr/1", root / "sr/1.png", 3.0),
        ("more/1", root / "sr/2.png", 4.0),
    ]
    assert len(labels.notes) == 1


def test_paths_are_the_same_with_and_without_the_check_of_images(isrgen, pieapp):
    for name in ("isrgen_qa", "pieapp"):
        assert read_labels(name, isrgen.path) == read_labels(name, isrgen.path, check_images=False)
