"""Fetching: one download, every hash compared, nothing left behind (fault matrix 47, 52 to 54, 58)."""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import resource
import signal
import threading
import time

import pytest
import torch

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights import fetching, pins, store
from sr_perceptual_loss.weights.hub import HubError

COMMIT = "c0ffee" + "0" * 34


def pinned(home):
    return json.loads((home / "weights.lock.json").read_text())["weights"]["small-official"]


def test_fetch_downloads_once_converts_pins_and_cleans_up(store_home, locate, hub, small, entry, caplog):
    with caplog.at_level(logging.INFO, "sr_perceptual_loss"):
        path = locate("official")
    assert path == store_home / "weights" / "small-official.safetensors"
    found = store.read(path)
    assert torch.equal(found.state["body.0.weight"], small.body[0].weight)
    assert found.metadata["srpl.source_sha256"] == hub.sha256
    assert found.metadata["srpl.licence"] == "CC BY-NC 4.0"
    assert found.metadata["srpl.commercial_use"] == "no"
    pin = pinned(store_home)
    assert pin.pop("time").startswith("20")
    assert pin == {
        "repo": "someone/small",
        "filename": "small_weights.pt",
        "revision": COMMIT,
        "sha256": hub.sha256,
        "bytes": len(hub.content),
        "file": path.name,
        "file_sha256": found.sha256,
    }
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert locate("official") == locate("local") == path
    assert hub.downloads == 1
    assert hub.asked == ["main"]
    assert "downloading https://huggingface.co/someone/small" in caplog.text
    assert "licence: CC BY-NC 4.0" in caplog.text


def test_fetch_again_asks_for_the_pinned_commit(store_home, fetch, hub):
    fetch().unlink()
    fetch()
    assert hub.asked == ["main", COMMIT]
    (store_home / "weights" / "small-official.safetensors").unlink()
    fetch(revision="f" * 40)
    assert hub.asked[-1] == "f" * 40


@pytest.mark.fault(54)
def test_another_file_under_the_same_name_is_refused(store_home, fetch, hub):
    path = fetch()
    path.unlink()
    old, hub.sha256 = hub.sha256, "1" * 64
    with pytest.raises(WeightsError) as error:
        fetch()
    for words in (old, "1" * 64, "remove the entry 'small-official'", str(store_home / "weights.lock.json"), str(path)):
        assert words in str(error.value)
    assert hub.downloads == 1
    assert not path.exists()


@pytest.mark.fault(54)
def test_hash_of_the_card_is_compared_before_the_download(store_home, fetch, hub):
    words = f"has SHA-256 {hub.sha256}, but this version of the package pins {'2' * 64}"
    with pytest.raises(WeightsError, match=words):
        fetch(sha256="2" * 64)
    assert hub.downloads == 0
    assert fetch(sha256=hub.sha256).is_file()


def test_file_made_from_another_checkpoint_than_the_card_wants(store_home, locate, fetch, hub, entry):
    fetch()
    with pytest.raises(WeightsError, match=f"this version of the package pins {'2' * 64}"):
        locate("local", {"official": dataclasses.replace(entry, sha256="2" * 64)})


@pytest.mark.fault(54)
def test_download_with_a_flipped_byte(store_home, fetch, hub):
    hub.content = hub.content[:-1] + bytes([hub.content[-1] ^ 1])
    words = rf"is damaged: got SHA-256 .*, the hub promised {hub.sha256}.*srpl fetch small"
    with pytest.raises(WeightsError, match=words):
        fetch()
    assert list((store_home / "weights").iterdir()) == []
    assert not (store_home / "weights.lock.json").exists()


def test_hub_without_a_hash_still_pins_our_own(store_home, fetch, hub):
    expected, hub.sha256 = hub.sha256, ""
    fetch()
    assert pinned(store_home)["sha256"] == expected


@pytest.mark.fault(54)
def test_converted_file_that_changed_is_refused(store_home, locate, hub):
    path = locate("official")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    for weights in ("local", "official"):
        with pytest.raises(WeightsError, match=r"got SHA-256 .*expected .*damaged or replaced.*srpl fetch small"):
            locate(weights)


def _killed_in_the_download(content, home, entry, small_class):
    os.environ["SRPL_HOME"] = home

    class Dying:
        def resolve(self, *_):
            return fetching.Resolved(COMMIT, "", len(content))

        def download(self, repo, filename, commit, folder):
            (folder / filename).write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    fetching.Hub = Dying
    store.fetch("small", entry, remap=small_class.remap_official, build=small_class)


@pytest.mark.fault(58)
def test_killed_download_frees_the_lock_and_is_started_anew(store_home, fetch, hub, entry, small_class):
    arguments = (hub.content, str(store_home), entry, small_class)
    victim = multiprocessing.get_context("fork").Process(target=_killed_in_the_download, args=arguments, daemon=True)
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    assert (store_home / "weights" / ".download" / "small_weights.pt").is_file()
    path = fetch()
    assert store.read(path).metadata["srpl.source_sha256"] == hub.sha256
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def _on_a_full_disk(home, entry, small_class, checkpoint, link, answers):
    os.environ["SRPL_HOME"] = home
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    class Serving:
        def resolve(self, *_):
            return fetching.Resolved(COMMIT, "", checkpoint.stat().st_size)

        def download(self, repo, filename, commit, folder):
            try:
                if link:
                    os.link(checkpoint, folder / filename)
                else:
                    (folder / filename).write_bytes(checkpoint.read_bytes())
            except OSError as error:  # what the real one makes of it
                raise HubError(f"OSError: {error}") from error
            return folder / filename

    fetching.Hub = Serving
    try:
        store.fetch("small", entry, remap=small_class.remap_official, build=small_class)
    except WeightsError as error:
        answers.put(str(error))
    except BaseException as error:
        answers.put(f"another error: {error!r}")
    else:
        answers.put("no error")


@pytest.mark.fault(59)
@pytest.mark.parametrize(("link", "words"), [(False, "could not be downloaded"), (True, "cannot be written")])
def test_write_that_the_system_refuses_leaves_nothing(
    store_home, entry, small_class, checkpoint, fetch, hub, link, words
):
    """A limit on file sizes stands in for a full disk, in the download and in the conversion."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (str(store_home), entry, small_class, checkpoint, link, answers)
    process = context.Process(target=_on_a_full_disk, args=arguments, daemon=True)
    process.start()
    answer = answers.get(timeout=60)
    process.join(30)
    assert words in answer
    assert list((store_home / "weights").iterdir()) == []
    assert not (store_home / "weights.lock.json").exists()
    assert fetch().is_file()


def test_hash_is_computed_once_per_process(store_home, locate, hub, monkeypatch):
    path = locate("official")
    locate("local")
    opened = []
    real = type(path).open
    monkeypatch.setattr(type(path), "open", lambda self, *a, **k: opened.append(self) or real(self, *a, **k))
    locate("local")
    assert path not in opened


@pytest.mark.fault(52)
@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_variable(store_home, locate, hub, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(WeightsError) as error:
        locate("official")
    for words in (f"({variable} is set)", "someone/small/resolve/main", "srpl convert small_weights.pt --critic small"):
        assert words in str(error.value)
    assert hub.asked == []


@pytest.mark.fault(52)
def test_no_connection(store_home, locate, hub, monkeypatch):
    def down(*_):
        raise HubError("ConnectError: no route to host")

    monkeypatch.setattr(hub, "download", down, raising=False)
    with pytest.raises(WeightsError) as error:
        locate("official")
    for words in (
        "could not be downloaded (ConnectError: no route to host)",
        "https://huggingface.co/someone/small/resolve/main/small_weights.pt",
        str(store_home / "weights" / "small-official.safetensors"),
    ):
        assert words in str(error.value)
    assert list((store_home / "weights").iterdir()) == []


def test_checkpoint_that_does_not_fit_leaves_nothing(store_home, hub, entry, small_class):
    with pytest.raises(WeightsError, match="does not fit the critic 'small'"):
        store.fetch("small", entry, remap=lambda s: {}, build=small_class)
    assert list((store_home / "weights").iterdir()) == []


@pytest.mark.fault(58)
def test_leftovers_of_a_killed_download_are_removed(store_home, fetch, hub):
    folder = store_home / "weights" / ".download"
    folder.mkdir(parents=True)
    (folder / "half").write_bytes(b"x")
    fetch()
    assert not folder.exists()


def test_progress_gets_the_talk(store_home, entry, hub, small_class, caplog):
    told: list[str] = []
    with caplog.at_level(logging.INFO, "sr_perceptual_loss"):
        store.fetch("small", entry, remap=small_class.remap_official, build=small_class, progress=told.append)
    assert [line.split()[1] for line in told] == ["downloading", "SHA-256", "wrote"]
    assert caplog.text == ""


def test_damaged_lock_file(store_home, fetch, hub):
    fetch()
    lock = store_home / "weights.lock.json"
    lock.write_text("{")
    with pytest.raises(WeightsError, match=r"weights\.lock\.json: unreadable .*mend it, or delete it"):
        fetch()
    lock.write_text('{"weights": {"small-official": {"sha256": "1"}}}')
    with pytest.raises(WeightsError, match="entry 'small-official' is damaged"):
        fetch()


@pytest.mark.fault(59)
def test_store_that_cannot_be_made(tmp_path, monkeypatch, fetch, hub):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SRPL_HOME", str(tmp_path / "file" / "store"))
    with pytest.raises(WeightsError, match=r"store cannot be written or locked.*Set SRPL_HOME"):
        fetch()


def test_install_of_a_checkpoint_by_hand(store_home, locate, small_class, entry, checkpoint):
    report = store.install("small", entry, checkpoint, small_class(), key=None, suggest=None)
    assert report.out == store_home / "weights" / "small-official.safetensors" == locate("local")
    assert pinned(store_home)["revision"] == ""
    assert pinned(store_home)["sha256"] == report.source_sha256
    torch.save({"a": torch.zeros(1)}, checkpoint)
    with pytest.raises(WeightsError, match="but this machine pinned"):
        store.install("small", entry, checkpoint, small_class(), key=None, suggest=None)
    with pytest.raises(WeightsError, match="no such file"):
        store.install("small", entry, checkpoint.with_name("none.pt"), small_class(), key=None, suggest=None)


@pytest.mark.fault(47)
def test_threads_that_ask_at_once_download_once(store_home, fetch, hub, monkeypatch):
    real = hub.download

    def slow(*args):
        time.sleep(0.2)
        return real(*args)

    monkeypatch.setattr(hub, "download", slow, raising=False)
    found, threads = [], [threading.Thread(target=lambda: found.append(fetch())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(found)) == 1 and len(found) == 4
    assert hub.downloads == 1


def _rank(content, home, entry, small_class, answers):
    """One rank of a job: counts its downloads in its own memory."""
    os.environ["SRPL_HOME"] = home
    torch.set_num_threads(1)  # a forked process must not use the parent's thread pool

    class Counting:
        downloads = 0

        def resolve(self, *_):
            return fetching.Resolved(COMMIT, "", len(content))

        def download(self, repo, filename, commit, folder):
            Counting.downloads += 1
            time.sleep(0.5)
            (folder / filename).write_bytes(content)
            return folder / filename

    fetching.Hub = Counting
    path = store.fetch("small", entry, remap=small_class.remap_official, build=small_class)
    answers.put((Counting.downloads, store.read(path).sha256))


@pytest.mark.fault(47)
def test_processes_that_ask_at_once_download_once(store_home, entry, small_class, checkpoint):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (checkpoint.read_bytes(), str(store_home), entry, small_class, answers)
    ranks = [context.Process(target=_rank, args=arguments, daemon=True) for _ in range(3)]
    for rank in ranks:
        rank.start()
    results = [answers.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(30)
    assert sorted(count for count, _ in results) == [0, 0, 1]
    assert len({digest for _, digest in results}) == 1


def test_pin_file_keeps_other_entries(store_home):
    pin = pins.Pin("r", "f", "c", "s", 1, "t", "o", "h")
    pins.write_pin(store_home, "a-official", pin)
    pins.write_pin(store_home, "b-official", pin)
    assert pins.read_pin(store_home, "a-official") == pins.read_pin(store_home, "b-official") == pin
    assert pins.read_pin(store_home, "c-official") is None
    assert json.loads((store_home / "weights.lock.json").read_text())["format"] == 1
