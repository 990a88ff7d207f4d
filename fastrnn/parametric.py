"""What everything with parameters shares: one flat buffer, its views, loading, copies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastrnn.parameters import FlatParameters, Layout, ParameterDict, read_mapping
from fastrnn.places import Kind

__all__ = ["Parametric"]


class Parametric:
    """Has ``layout``, ``dtype``, ``kind`` and ``_parameters``, which its maker sets."""

    layout: Layout
    dtype: np.dtype[Any]
    kind: Kind
    _parameters: FlatParameters

    @property
    def flat_params(self) -> NDArray[Any]:
        """All parameters, one after the other; write into it in place (``flat_params -= step`` does)."""
        return self._parameters.flat

    @flat_params.setter
    def flat_params(self, value: NDArray[Any]) -> None:
        if value is not self._parameters.flat:
            raise AttributeError("flat_params can't be replaced: write into it, as in layer.flat_params[...] = value")

    @property
    def params(self) -> ParameterDict:
        """Name -> array, views of ``flat_params`` in its order; write into the arrays in place."""
        return self._parameters.views

    def load_params(self, mapping: Mapping[str, Any]) -> None:
        """Copy the values of mapping into the parameters; floats of any precision are cast.

        Strict: names and shapes must be exactly the layer's. Raises ValueError that names what is missing,
        unexpected or misshapen, or too large for the layer's dtype; TypeError for what is no array of floats;
        RuntimeError for a frozen layer. A load that fails changes nothing.
        """
        if self.frozen:
            raise RuntimeError("the layer is frozen: call unfreeze() before load_params()")
        place = self.kind.place
        with place.current():
            self._parameters.flat[...] = place.from_host(read_mapping(mapping, self.layout, self.dtype))

    @property
    def frozen(self) -> bool:
        """Whether the parameters are read-only."""
        return False

    def __copy__(self) -> Self:  # two on one buffer would not know of each other
        return copy.deepcopy(self)
