"""What is known about a published weights file before it is on this machine."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WeightsEntry"]


@dataclass(frozen=True)
class WeightsEntry:
    """One downloadable or bundled weights file of a critic.

    Attributes:
        tag: the value of ``weights=`` that names it, for instance ``official``.
        repo_id: Hugging Face repository, empty for a bundled file.
        filename: file in the repository, or in ``weights/bundled/``.
        revision: commit to take; a branch name is resolved to a commit at first use and pinned in the lock file.
        sha256: full SHA-256 of the published file; empty if its authors publish none (then the hub's own LFS hash is
            verified and pinned in the lock file at first use).
        bytes: size of the published file.
        licence: licence of the weights as far as known.
        training_data: what they were trained on.
        origin: who made them, in one sentence.
        commercial_use: True, False, or None where nobody has said.
    """

    tag: str
    repo_id: str
    filename: str
    revision: str
    sha256: str
    bytes: int
    licence: str
    training_data: str
    origin: str
    commercial_use: bool | None

    @property
    def url(self) -> str:
        """Address of the file for a person or a plain download."""
        return f"https://huggingface.co/{self.repo_id}/resolve/{self.revision}/{self.filename}"
