"""Downloads that go wrong, with the real client of the hub and a server on this machine (fault matrix 52 to 59)."""

from __future__ import annotations

import os
import pickle
import shutil

import huggingface_hub
import pytest
from local_hub import LocalHub

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights import store


@pytest.fixture
def served(checkpoint, monkeypatch):
    """The published checkpoint on a hub of this machine; waits between the client's attempts are left out."""
    with LocalHub(checkpoint.read_bytes()) as hub:
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield hub


def nothing_in(home):
    """No weights, no pin, no half file; the lock file alone may stay."""
    left = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return left in ([], [".weights.lock"])


@pytest.mark.fault(47)
def test_fetched_once_from_a_real_server(store_home, locate, served, small):
    path = locate("official")
    assert served.downloads == 1
    assert store.read(path).metadata["srpl.source_sha256"] == served.promised
    asked = len(served.requests)
    assert locate("official") == locate("local") == path
    assert len(served.requests) == asked


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("flipped", r"is damaged: got SHA-256 \w+, the hub promised"),
        ("html", "is damaged: got SHA-256"),
        ("short", "could not be downloaded"),
        ("down", "could not be downloaded"),
    ],
)
def test_bad_download_leaves_nothing_and_the_next_one_succeeds(store_home, locate, served, fault, words):
    served.fault = fault
    with pytest.raises(WeightsError, match=words) as error:
        locate("official")
    assert "https://huggingface.co/someone/small" in str(error.value)
    assert nothing_in(store_home)
    served.fault = ""
    assert locate("official").is_file()


@pytest.mark.fault(58)
def test_broken_connection_is_resumed(store_home, locate, served, small):
    served.fault = "broken"
    assert store.read(locate("official")).metadata["srpl.source_sha256"] == served.promised
    assert served.downloads == 2


@pytest.mark.fault(53)
@pytest.mark.parametrize("content", ["html", "cut", "padded", "empty", "bomb"])
def test_without_a_published_hash_what_is_no_checkpoint_is_refused(
    store_home, locate, served, tmp_path, content, monkeypatch
):
    """The hub states a hash for large files only; here nothing but the reader stands between a file and the store."""
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    whole = served.content
    served.promised = ""
    served.content = {
        "html": b"<!DOCTYPE html><html>404</html>",
        "cut": whole[: len(whole) // 2],
        "padded": whole + b"x" * 70_000,
        "empty": b"",
        "bomb": pickle.dumps({"params": Bomb()}, protocol=2),
    }[content]
    with pytest.raises(WeightsError):
        locate("official")
    assert not mark.exists()
    assert nothing_in(store_home)


@pytest.mark.fault(54)
def test_mirror_with_another_file(store_home, locate, served, small_class, as_published, tmp_path):
    """A mirror (HF_ENDPOINT) that tells the truth about its own file: the pin of the first use decides."""
    import torch

    locate("official").unlink()
    torch.save(as_published(small_class()), tmp_path / "other.pt")
    with LocalHub((tmp_path / "other.pt").read_bytes()) as mirror:
        served.content, served.promised = mirror.content, mirror.promised
        before = served.downloads
        with pytest.raises(WeightsError, match=r"but this machine pinned .* at first use.*was not used"):
            locate("official")
    assert served.downloads == before
    assert not (store_home / "weights" / "small-official.safetensors").exists()


@pytest.mark.fault(59)
def test_store_without_write_permission(store_home, locate, served, monkeypatch):
    """Weights that are there are read; a fetch into a store that cannot be written says what to do."""
    path = locate("official")
    real = os.open

    def read_only(file, flags, *args, **kwargs):
        if str(file).startswith(str(store_home)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    assert locate("official") == locate("local") == path
    store.read(path)
    path.unlink()
    with pytest.raises(WeightsError, match=r"cannot be written or locked \(.*Permission denied.*Set SRPL_HOME"):
        locate("official")


@pytest.mark.fault(59)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_linked_store_and_linked_file(store_home, locate, served, tmp_path, kind):
    if kind == "folder":
        (tmp_path / "disk with space").mkdir()
        store_home.symlink_to(tmp_path / "disk with space")
        assert store.read(locate("official")).critic == "small"
        return
    path = locate("official")
    shutil.move(path, tmp_path / "moved.safetensors")
    path.symlink_to(tmp_path / "moved.safetensors")
    assert store.read(locate("local")).critic == "small"
    (tmp_path / "moved.safetensors").unlink()
    with pytest.raises(WeightsError, match="not on this machine"):
        locate("local")
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    with pytest.raises(WeightsError, match="no such file"):
        store.read(loop)


@pytest.mark.fault(56)
@pytest.mark.parametrize("config", ['{"foo": 1}', '{"width": "x"}', '{"normalisation": 3}', '{"std": "nonsense"}'])
def test_header_that_asks_for_what_cannot_be_built(tmp_path, config):
    from safetensors.torch import save_file
    from torch import zeros

    from sr_perceptual_loss import create_critic

    path = tmp_path / "x.safetensors"
    header = {"srpl.format": "1", "srpl.critic": "efficient_pban", "srpl.config": config}
    save_file({"a": zeros(1)}, path, metadata=header)
    with pytest.raises(WeightsError, match="no efficient_pban can be built with the constructor arguments"):
        create_critic("efficient_pban", weights=path)
