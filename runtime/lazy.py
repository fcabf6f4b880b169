"""Large libraries that are imported at their first use, so that --help and error lines appear at once.

The project's files write ``from runtime.lazy import keras, ops`` in place of ``import keras``. Annotations that name
a class of these libraries need ``from __future__ import annotations``: otherwise Python looks the class up at once.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


class LazyModule(ModuleType):
    """Stands for the module of this name, and imports it when an attribute is first asked for.

    after: a module that is imported before it.
    """

    def __init__(self, name: str, after: str | None = None) -> None:
        super().__init__(name)
        self._after = after
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if self._module is None:
            if self._after:
                import_module(self._after)
            self._module = import_module(self.__name__)
        return getattr(self._module, name)


if TYPE_CHECKING:
    import keras as keras
    import pandas as pandas
    from keras import layers, ops, tree
    from scipy import linalg, ndimage, optimize, sparse, special, stats
else:
    keras, pandas = LazyModule("keras"), LazyModule("pandas")
    layers, ops, tree = (LazyModule(f"keras.{name}") for name in ("layers", "ops", "tree"))
    linalg, ndimage, optimize, sparse, special, stats = (
        LazyModule(f"scipy.{name}") for name in ("linalg", "ndimage", "optimize", "sparse", "special", "stats")
    )

__all__ = ["keras", "layers", "linalg", "ndimage", "ops", "optimize", "pandas", "sparse", "special", "stats", "tree"]
