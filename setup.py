"""Thin on purpose: all metadata is in pyproject.toml. One build step adds the YAMLs to the package."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies what `srpl config` shows; an editable install reads the folders of the repository instead."""

    def run(self) -> None:
        """Build the package, then add its folder `configs`."""
        super().run()
        if not self.editable_mode:
            for folder in ("basicsr_configs", "examples/critics"):
                self.copy_tree(folder, f"{self.build_lib}/sr_perceptual_loss/configs")


setup(cmdclass={"build_py": BuildWithConfigs})
