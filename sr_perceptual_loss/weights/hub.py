"""The Hugging Face hub, as little of it as we need: which commit and hash a file has, and the file itself.

The only place of the package that opens a network connection.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Hub", "HubError", "Resolved", "offline_variable"]


class HubError(RuntimeError):
    """The hub could not be reached or has no such file; the message is the bare reason."""


class Resolved(NamedTuple):
    """A file of a repository at one commit."""

    commit: str
    sha256: str
    bytes: int


def offline_variable() -> str:
    """Name of the environment variable that forbids network access, or an empty text.

    Looked up by ourselves at call time: huggingface_hub reads it only once, when it is imported.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return ""


class Hub:
    """Asks the hub; tests put in a fake with the same two methods."""

    def resolve(self, repo: str, filename: str, revision: str) -> Resolved:
        """What the hub says about a file.

        Args:
            repo: repository name, ``owner/name``.
            filename: file in it.
            revision: branch, tag or commit.

        Returns:
            The commit that ``revision`` means now, and the file's SHA-256 (empty for a small file that is not in LFS)
            and size at that commit.

        Raises:
            HubError: no connection, or no such file.
        """
        from huggingface_hub import HfApi, errors

        try:
            api = HfApi()
            commit = api.model_info(repo, revision=revision).sha
            # Asked for at the commit, so that a push between both questions cannot mix two versions.
            found = api.get_paths_info(repo, [filename], revision=commit)
        except (OSError, ValueError, RuntimeError, errors.HfHubHTTPError, _transport_error()) as error:
            raise HubError(_reason(error)) from error
        if not commit or not found:
            raise HubError(f"{repo} has no file {filename} at revision {revision}")
        lfs = getattr(found[0], "lfs", None)
        return Resolved(commit, lfs.sha256 if lfs else "", int(getattr(found[0], "size", 0)))

    def download(self, repo: str, filename: str, commit: str, folder: Path) -> Path:
        """Download one file at one commit.

        Args:
            repo: repository name.
            filename: file in it.
            commit: full commit hash.
            folder: where to put it, outside the hub's own cache, so that no second copy stays behind.

        Returns:
            Path of the file.

        Raises:
            HubError: connection lost, disk full, no such file.
        """
        from huggingface_hub import errors, hf_hub_download

        try:
            return Path(hf_hub_download(repo, filename, revision=commit, local_dir=folder))
        except (OSError, ValueError, RuntimeError, errors.HfHubHTTPError, _transport_error()) as error:
            raise HubError(_reason(error)) from error


def _transport_error() -> type[Exception]:
    """Base of the HTTP library's own errors, whichever library this huggingface_hub uses."""
    from huggingface_hub import errors

    found = getattr(errors, "HTTPError", OSError)
    return found if isinstance(found, type) and issubclass(found, Exception) else OSError


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
