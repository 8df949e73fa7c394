"""What a terminal shows, and what happens when the other end is closed or the user stops a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr_perceptual_loss.cli.terminal import log, one_line, print_table

pty = pytest.importorskip("pty", reason="pseudo terminals exist on POSIX only")


def start(arguments, cwd, encoding="utf-8", **options):
    command = [sys.executable, "-m", "sr_perceptual_loss.cli.app", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": encoding}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, encoding="utf-8", **options)


def on_a_terminal(arguments, cwd):
    """Exit code and the lines that are visible in the end, with stdout and stderr on one terminal."""
    ours, theirs = pty.openpty()
    process = start(arguments, cwd, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux reports the end so
            part = b""
        if not part:
            break
        output += part
    os.close(ours)
    lines = []
    for line in output.decode().replace("\r\n", "\n").split("\n"):
        visible = ""
        for text in line.split("\r"):
            text, clear, _ = text.partition("\x1b[K")
            visible = text + ("" if clear else visible[len(text) :])
        lines.append(visible.rstrip())
    return process.wait(), lines


def test_progress_and_results_do_not_share_a_line(picture, tmp_path):
    for name in ("hr/a.png", "hr/b.png", "hr/c.png", "sr/a.png", "sr/b.png"):
        picture(name)
    (tmp_path / "sr/c.png").write_bytes(b"damaged")
    code, lines = on_a_terminal(["score", "sr", "hr"], tmp_path)
    assert code == 2
    assert [line.split("\t")[0] for line in lines[:2]] == ["a.png", "b.png"]
    assert lines[2].startswith("error: sr/c.png") and not "".join(lines[3:])


def test_a_closed_pipe_is_no_traceback(tmp_path):
    process = start(["--help"], tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait() != 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_a_full_disk_is_one_line(arguments, tmp_path):
    with Path("/dev/full").open("w") as full:
        process = start(arguments, tmp_path, stdout=full, stderr=subprocess.PIPE)
        errors = process.communicate()[1]
    assert process.returncode == 2 and errors.startswith("error: [Errno 28]") and errors.count("\n") == 1


def test_interrupted_is_one_line_and_exit_code_130(srpl, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sr_perceptual_loss.cli.list._describe", stop)
    result = srpl("list")
    assert result.exit_code == 130 and result.stderr == "interrupted\n"


def test_names_that_an_output_cannot_encode(srpl, picture, tmp_path):
    """An accent for ASCII, bytes that are no text, a line break, an escape sequence."""
    names = [os.fsdecode(name) for name in ("caf\u00e9.png".encode(), b"\xe9.png", b"a\nb.png", b"\x1b[31m.png")]
    for folder in ("sr", "hr"):
        for name in names:
            picture(f"{folder}/x.png").rename(tmp_path / folder / name)
    process = start(["score", "sr", "hr"], tmp_path, encoding="ascii", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    shown = [line.split("\t")[0] for line in output.splitlines()]
    assert [shown[0], shown[1], shown[3]] == ["\\x1b[31m.png", "a\\nb.png", "\\udce9.png"]
    assert shown[2] in ("caf\u00e9.png", "caf\\xe9.png")  # click writes UTF-8 where a stream claims to be ASCII
    for _ in range(2):  # the second run finds its rows again
        result = srpl("metrics", tmp_path / "sr", tmp_path / "hr", "--metrics", "psnr_y", "--out", tmp_path / "m.csv")
        assert result.exit_code == 0, result.stderr
    assert "4 of 4 rows" in result.stderr


def test_messages_show_no_control_characters(capsys):
    log("error: \x1b]0;title\x07\nnext caf\u00e9")
    assert capsys.readouterr().err == "error: \\x1b]0;title\\x07\nnext caf\u00e9\n"
    assert one_line("a\tb\ud800") == "a\\tb\\ud800"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_tables_are_cut_between_columns(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    heads = ("loss", *(f"column{i}" for i in range(8)), "how")
    rows = [("name_of_a_loss", *(f"{i}.1234567" for i in range(8)), "a sentence that is as long as a line of prose is")]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(heads, rows)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    words = out.split()
    assert all(words.count(f"{i}.1234567") == words.count(f"column{i}") == 1 for i in range(8))
    assert words.count("sentence") == 1 and words.count("name_of_a_loss") == words.count("loss")
    monkeypatch.undo()
    print_table(heads, rows)
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [list(heads), list(rows[0])]
