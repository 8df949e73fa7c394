"""The thin layer over huggingface_hub, with its client replaced: questions asked and errors translated."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from sr_perceptual_loss.weights.hub import Hub, HubError, Resolved, offline_variable


class Api:
    answer: object = None

    def __init__(self):
        Api.calls = []

    def model_info(self, repo, revision):
        if isinstance(Api.answer, BaseException):
            raise Api.answer
        Api.calls.append(("info", repo, revision))
        return SimpleNamespace(sha="abc")

    def get_paths_info(self, repo, paths, revision):
        Api.calls.append(("paths", repo, tuple(paths), revision))
        return Api.answer


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_hash_is_asked_for_at_the_commit(api):
    api.answer = [SimpleNamespace(size=7, lfs=SimpleNamespace(sha256="beef"))]
    assert Hub().resolve("o/r", "f.pt", "main") == Resolved("abc", "beef", 7)
    assert api.calls == [("info", "o/r", "main"), ("paths", "o/r", ("f.pt",), "abc")]


def test_small_file_has_no_hash_and_missing_file_is_named(api):
    api.answer = [SimpleNamespace(size=7, lfs=None)]
    assert Hub().resolve("o/r", "f.pt", "main") == ("abc", "", 7)
    api.answer = []
    with pytest.raises(HubError, match=r"o/r has no file f\.pt at revision main"):
        Hub().resolve("o/r", "f.pt", "main")


def _transport_error():
    from huggingface_hub import errors

    return errors.HTTPError("no route to host")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route to host"),
        OfflineModeIsEnabled("offline mode"),
        LocalEntryNotFoundError("not cached"),
        _transport_error(),
        TimeoutError("slow"),
        RuntimeError("xet"),
    ],
)
def test_errors_become_one_kind(api, monkeypatch, error, tmp_path):
    api.answer = error
    with pytest.raises(HubError, match=type(error).__name__):
        Hub().resolve("o/r", "f.pt", "main")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(HubError, match=str(error)):
        Hub().download("o/r", "f.pt", "abc", tmp_path)


def test_http_error_of_the_hub_is_covered():
    assert issubclass(HfHubHTTPError, OSError)


def test_download_goes_to_our_folder_at_the_commit(monkeypatch, tmp_path):
    seen = {}

    def download(repo, filename, **options):
        seen.update(options, repo=repo, filename=filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert Hub().download("o/r", "f.pt", "abc", tmp_path) == tmp_path / "f.pt"
    assert seen == {"repo": "o/r", "filename": "f.pt", "revision": "abc", "local_dir": tmp_path}


@pytest.mark.parametrize(("value", "found"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_variable_is_read_at_call_time(monkeypatch, value, found):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert offline_variable() == ("HF_HUB_OFFLINE" if found else "")
