"""Stand-ins that reproduce what neosr and traiNNer-redux promise to a loss; own code, written from the contracts."""

from __future__ import annotations

import copy
import sys
import types

import torch


class Registry:
    """name -> object; a repeated name is an error. traiNNer lower-cases the names."""

    def __init__(self, lower=False):
        self.map = {}
        self.lower = lower

    def _key(self, name):
        return name.lower() if self.lower else name

    def register(self, obj):
        key = self._key(obj.__name__)
        assert key not in self.map, f"An object named '{key}' was already registered"
        self.map[key] = obj

    def get(self, name):
        return self.map[self._key(name)]

    def __contains__(self, name):
        return self._key(name) in self.map

    def build(self, options):
        options = copy.deepcopy(options)
        return self.get(options.pop("type"))(**options)


def install(monkeypatch, package, *, lower):
    """`<package>.utils.registry` with three registries, and an empty `<package>.models` and `.losses`."""
    registry = types.ModuleType(f"{package}.utils.registry")
    for kind in ("LOSS", "METRIC", "MODEL"):
        setattr(registry, f"{kind}_REGISTRY", Registry(lower))
    modules = {name: types.ModuleType(f"{package}{name}") for name in ("", ".utils", ".models", ".losses")}
    for name, module in modules.items():
        module.__path__ = []
        monkeypatch.setitem(sys.modules, f"{package}{name}", module)
    monkeypatch.setitem(sys.modules, f"{package}.utils.registry", registry)
    return registry, modules[".models"]


class Scale(torch.nn.Module):
    """A network of one weight whose gradient is easy to follow."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, image):
        return image * self.gain
