"""BasicSR: importing this package makes our losses, models and metrics known to its registries.

One line in a project's own train.py, before any ``import basicsr``::

    import sr_perceptual_loss.integrations.basicsr

or no line at all: ``srpl basicsr -opt x.yml``.
"""

from sr_perceptual_loss.integrations.basicsr_shim import install_shims, require_basicsr

install_shims()
require_basicsr()

from sr_perceptual_loss.integrations.basicsr import losses, metrics, models  # noqa: E402

__all__ = ["losses", "metrics", "models"]
