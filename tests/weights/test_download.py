"""Downloads with the real client of the hub and a server on this machine (fault matrix 47, 52 to 54, 58, 59)."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import threading

import huggingface_hub
import pytest
import torch
from local_hub import COMMIT, LocalHub

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights import store


def files_in(home):
    """What a failed download may have left; the lock itself may stay."""
    return sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file() and p.name != ".weights.lock")


def pinned(home):
    return json.loads((home / "weights.lock.json").read_text())["weights"]["small-official"]


@pytest.mark.fault(47)
def test_downloads_once_converts_pins_and_cleans_up(store_home, locate, hub, small, caplog):
    with caplog.at_level(logging.INFO, "sr_perceptual_loss"):
        path = locate("official")
    assert path == store_home / "weights" / "small-official.safetensors"
    file = store.read(path)
    assert torch.equal(file.state["body.0.weight"], small.body[0].weight)
    facts = [file.metadata[f"srpl.{key}"] for key in ("source_sha256", "licence", "commercial_use")]
    assert facts == [hub.sha256, "CC BY-NC 4.0", "no"]
    pin = pinned(store_home)
    assert pin.pop("time").startswith("20")
    assert pin == {
        "repo": "someone/small",
        "filename": "small_weights.pt",
        "revision": COMMIT,
        "sha256": hub.sha256,
        "bytes": len(hub.content),
        "file": path.name,
        "file_sha256": file.sha256,
    }
    assert files_in(store_home) == ["weights.lock.json", "weights/small-official.safetensors"]
    for words in ("downloading https://huggingface.co/someone/small", "licence: CC BY-NC 4.0", hub.sha256):
        assert words in caplog.text
    asked = len(hub.requests)
    assert locate("official") == locate("local") == path
    assert (hub.downloads, len(hub.requests)) == (1, asked)


def test_progress_is_reported_to_the_caller_instead_of_the_log(store_home, fetch, hub, caplog):
    lines: list[str] = []
    with caplog.at_level(logging.INFO, "sr_perceptual_loss"):
        fetch(progress=lines.append)
    assert [line.split()[1] for line in lines] == ["downloading", "wrote"]
    assert caplog.text == ""


def test_a_download_keeps_the_pins_of_other_weights(store_home, fetch, hub):
    other = {"repo": "someone/else", "filename": "x.pt", "revision": "c" * 40, "sha256": "1" * 64, "bytes": 3}
    other |= {"time": "2026-01-01T00:00:00+00:00", "file": "x.safetensors", "file_sha256": "2" * 64}
    store_home.mkdir(parents=True, exist_ok=True)
    lock = store_home / "weights.lock.json"
    lock.write_text(json.dumps({"format": 1, "weights": {"else-official": other}}))
    fetch()
    pins = json.loads(lock.read_text())["weights"]
    assert set(pins) == {"else-official", "small-official"} and pins["else-official"] == other


def test_a_branch_means_the_pinned_commit_afterwards(store_home, fetch, hub):
    fetch().unlink()
    assert hub.revisions == ["main", COMMIT]
    fetch().unlink()
    assert hub.revisions == ["main", COMMIT]
    fetch(revision="f" * 40)
    assert hub.revisions == ["main", COMMIT, "f" * 40, COMMIT]


@pytest.mark.fault(54)
def test_another_file_under_the_same_name_is_refused(store_home, fetch, hub, small_class, as_published, tmp_path):
    """As on a mirror (HF_ENDPOINT) that tells the truth about its file: the pin of the first use decides."""
    path = fetch()
    path.unlink()
    torch.save(as_published(small_class()), tmp_path / "other.pt")
    old = hub.sha256
    with LocalHub((tmp_path / "other.pt").read_bytes()) as mirror:
        hub.content, hub.sha256 = mirror.content, mirror.sha256
    with pytest.raises(WeightsError) as error:
        fetch()
    for words in (old, hub.sha256, "'small-official'", str(store_home / "weights.lock.json"), str(path)):
        assert words in str(error.value)
    assert hub.downloads == 1 and not path.exists()
    hub.sha256 = ""  # a hub that states none: the file itself is compared
    with pytest.raises(WeightsError, match=f"this machine pinned {old}"):
        fetch()
    assert not path.exists()


@pytest.mark.fault(54)
def test_hash_of_the_manifest_is_compared_before_the_download(store_home, fetch, hub):
    with pytest.raises(WeightsError, match=f"{hub.sha256}.*this version of the package pins {'2' * 64}"):
        fetch(sha256="2" * 64)
    assert hub.downloads == 0
    assert fetch(sha256=hub.sha256).is_file()


@pytest.mark.fault(54, 58)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("flipped", r"damaged: got SHA-256 \w+, .*{stated}.*srpl fetch small"),
        ("html", "damaged: got SHA-256"),
        ("short", "could not be downloaded"),
        ("down", "could not be downloaded"),
    ],
)
def test_bad_download_leaves_nothing_and_the_next_one_succeeds(store_home, locate, hub, fault, words):
    hub.fault = fault
    with pytest.raises(WeightsError, match=words.format(stated=hub.sha256)) as error:
        locate("official")
    assert "https://huggingface.co/someone/small" in str(error.value)
    assert files_in(store_home) == []
    hub.fault = ""
    assert locate("official").is_file()


@pytest.mark.fault(58)
def test_broken_connection_is_resumed(store_home, locate, hub):
    hub.fault = "broken"
    assert store.read(locate("official")).metadata["srpl.source_sha256"] == hub.sha256
    assert hub.downloads == 2


@pytest.mark.fault(53)
@pytest.mark.parametrize("content", ["html", "cut", "padded", "empty", "bomb", "misfit", "whole"])
def test_without_a_stated_hash_the_reader_refuses_what_is_no_checkpoint(
    store_home, locate, hub, bomb, tmp_path, content
):
    """The hub states a SHA-256 for large files only; of a whole file our hash is pinned."""
    mark, whole = tmp_path / "executed", hub.content
    torch.save({"net.weight": torch.zeros(1)}, tmp_path / "misfit.pt")
    expected, hub.sha256 = hub.sha256, ""
    hub.content = {
        "html": b"<!DOCTYPE html><html>404</html>",
        "cut": whole[: len(whole) // 2],
        "padded": whole + b"x" * 70_000,
        "empty": b"",
        "bomb": pickle.dumps({"params": bomb(mark)}, protocol=2),
        "misfit": (tmp_path / "misfit.pt").read_bytes(),
        "whole": whole,
    }[content]
    if content == "whole":
        locate("official")
        assert pinned(store_home)["sha256"] == expected
        return
    with pytest.raises(WeightsError):
        locate("official")
    assert not mark.exists() and files_in(store_home) == []


@pytest.mark.fault(52)
@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", ""])
def test_offline(store_home, locate, hub, monkeypatch, variable):
    """The message names the file, its place, address and licence and the manual way."""

    def unreachable(*_):
        raise OSError("no route")

    if variable:
        monkeypatch.setenv(variable, "1")
    else:
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(WeightsError) as error:
        locate("official")
    for words in (
        variable or "OSError: no route",
        "https://huggingface.co/someone/small/resolve/main/small_weights.pt",
        "CC BY-NC 4.0",
        "srpl convert small_weights.pt --critic small",
        str(store_home / "weights" / "small-official.safetensors"),
    ):
        assert words in str(error.value)
    assert hub.requests == [] and files_in(store_home) == []


def test_hash_is_computed_once_per_process(store_home, locate, hub, monkeypatch):
    path = locate("official")
    opened = []
    real = type(path).open
    monkeypatch.setattr(type(path), "open", lambda self, *a, **k: opened.append(self) or real(self, *a, **k))
    locate("local")
    assert path not in opened


@pytest.mark.fault(59)
def test_store_that_cannot_be_written(store_home, locate, hub, tmp_path, monkeypatch):
    """Weights that are there are read; a download into such a store says what to do. A linked store works."""
    (tmp_path / "disk with space").mkdir()
    store_home.symlink_to(tmp_path / "disk with space")
    path = locate("official")
    real = os.open

    def read_only(file, flags, *args, **kwargs):
        if str(file).startswith(str(tmp_path)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    assert store.read(locate("official")).critic == "small"
    path.unlink()
    with pytest.raises(WeightsError, match=r"Permission denied.*SRPL_HOME"):
        locate("official")
    monkeypatch.undo()
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SRPL_HOME", str(tmp_path / "file" / "store"))
    with pytest.raises(WeightsError, match="SRPL_HOME"):
        locate("official")


@pytest.mark.fault(47)
def test_threads_that_ask_at_once_download_once(store_home, fetch, hub):
    paths, threads = [], [threading.Thread(target=lambda: paths.append(fetch())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(paths) == 4 and len(set(paths)) == 1
    assert hub.downloads == 1


def in_processes(count, work):
    """What ``work()`` returns, or the WeightsError it raises, in each of some forked processes."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def run():
        torch.set_num_threads(1)  # a forked process must not use the parent's thread pool
        try:
            answers.put(work())
        except WeightsError as error:
            answers.put(str(error))

    processes = [context.Process(target=run, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    results = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    return results


@pytest.mark.fault(47)
def test_processes_that_ask_at_once_download_once(store_home, fetch, hub):
    digests = in_processes(3, lambda: store.read(fetch()).sha256)
    assert hub.downloads == 1
    assert set(digests) == {pinned(store_home)["file_sha256"]}


@pytest.mark.fault(58)
def test_killed_download_frees_the_lock_and_leaves_nothing_in_the_end(store_home, fetch, hub, monkeypatch):
    def die(*_, local_dir, **__):
        (local_dir / "small_weights.pt").write_bytes(hub.content[: len(hub.content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", die)
    victim = multiprocessing.get_context("fork").Process(target=fetch, daemon=True)
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    assert files_in(store_home) == ["weights/.download/small_weights.pt"]
    monkeypatch.undo()
    monkeypatch.setenv("SRPL_HOME", str(store_home))
    hub.connect(monkeypatch)
    assert store.read(fetch()).metadata["srpl.source_sha256"] == hub.sha256
    assert files_in(store_home) == ["weights.lock.json", "weights/small-official.safetensors"]


@pytest.mark.fault(59)
@pytest.mark.parametrize(("linked", "words"), [(False, "could not be downloaded"), (True, "cannot be written")])
def test_write_that_the_system_refuses_leaves_nothing(store_home, checkpoint, fetch, hub, monkeypatch, linked, words):
    """A limit on file sizes stands in for a full disk, in the download and in the conversion."""

    def link(*_, local_dir, **__):
        os.link(checkpoint, local_dir / checkpoint.name)
        return local_dir / checkpoint.name

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        if linked:
            monkeypatch.setattr(huggingface_hub, "hf_hub_download", link)
        return fetch()

    assert words in str(in_processes(1, work)[0])
    assert files_in(store_home) == []
    assert fetch().is_file()
