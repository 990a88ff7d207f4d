"""What everything in ``fastrnn.nn`` that has parameters shares. A new part says its shapes, and three functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.parameters import FlatParameters, Layout
from fastrnn.parametric import Parametric
from fastrnn.places import Kind, Place, place_of
from fastrnn.tape import Gradients, Tape, tape_of

__all__ = ["Part"]

Result = TypeVar("Result")

_DTYPES = ("float32", "float64")


class Part(Parametric):
    """The base of Linear, Embedding and the like.

    A subclass calls ``_create`` when it is made, and has

        _infer(x) -> y                                                  what calling it computes
        _train(x) -> y, record                                          the same, and what backward needs
        _gradients(record, dy, params, input_grad) -> dx or None        fills ``params``, a dict of uninitialised arrays
        settings() -> dict                                              the arguments that make another like it

    all with arrays of the part's place (``self.kind.place.arrays`` is NumPy or CuPy), which is current meanwhile. A
    part that takes more than x writes its own ``__call__``, ``forward`` and ``backward``.

    Attributes
    ----------
    flat_params, params : as those of the layers
    dtype, device : what it was made with, or moved to
    """

    device: str

    kinds: ClassVar[dict[str, type[Part]]] = {}  # by the name of the class, for loading

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Part.kinds[cls.__name__] = cls

    def _create(self, values: Mapping[str, NDArray[Any]], dtype: Any, device: str) -> None:
        """Take up initial values, of any floating dtype, in the order of the flat buffer; check dtype and device."""
        self.device = checks.device(device)
        place = place_of(self.device)
        self.dtype = checks.dtype(dtype, place)
        if self.dtype.name not in _DTYPES:
            raise ValueError(f"dtype must be one of {_DTYPES}, got {self.dtype}")
        self.kind = Kind.of(place, self.dtype)
        self.layout = Layout.named({name: value.shape for name, value in values.items()})
        flat = np.empty(self.layout.size, self.dtype)
        for entry in self.layout:
            flat[entry.start : entry.stop] = values[entry.name].reshape(-1)
        self._parameters = FlatParameters(self.layout, place.from_host(flat))

    # Calls

    def __call__(self, x: Any) -> NDArray[Any]:
        """Run the part and keep nothing."""
        return self._at(self._infer, x)

    def forward(self, x: Any) -> tuple[NDArray[Any], Tape]:
        """Run the part for training. The tape refers to x without a copy, as those of the layers do."""
        y, record = self._at(self._train, x)
        return y, Tape(self, (self.kind.place, record), None)

    def backward(
        self,
        tape: Tape,
        dy: NDArray[Any],
        *,
        input_grad: bool = True,
        keep_tape: bool = False,
        out: Gradients | None = None,
    ) -> Gradients:
        """The gradients of x and of every parameter.

        Parameters
        ----------
        tape : Tape
            Of this part's ``forward``; consumed unless keep_tape.
        dy : array shaped as y
        input_grad : bool
            False saves the work for ``grads.x``, which is then None.
        out : Gradients, optional
            Of an earlier backward of the same shapes: x and params are added into it, and it is returned.

        Raises RuntimeError for a consumed tape; ValueError for another part's tape and for shapes that do not fit;
        TypeError for other dtypes.
        """
        return self._at(self._backward, tape, dy, input_grad, keep_tape, out)

    def _backward(self, tape: Any, dy: Any, input_grad: Any, keep_tape: Any, out: Any) -> Gradients:
        input_grad, keep_tape = checks.flag("input_grad", input_grad), checks.flag("keep_tape", keep_tape)
        place, record = tape_of(tape).peek(self)
        if place != self.kind.place:
            raise ValueError("tape must be of a forward() on the device the part is on, got one from before to()")
        self._check_out(out)
        grads = self._new_gradients()
        grads.x = self._gradients(record, dy, grads.params, input_grad)
        if grads.x is not None and out is not None:
            self._check_total("out.x", out.x, grads.x)
        if not keep_tape:
            tape.take()
        return grads if out is None else _added(out, grads)

    def _new_gradients(self) -> Gradients:
        """Gradients of the parameters, not yet filled."""
        flat = self.kind.place.arrays.empty(self.layout.size, self.dtype)
        return Gradients(self.layout, flat, None, cast(Any, None))

    def _check_out(self, out: Any) -> None:
        if out is None:
            return
        if not isinstance(out, Gradients):
            raise TypeError(f"out must be the Gradients of an earlier backward, got {type(out).__name__}")
        if out.parameters.layout != self.layout or out.flat.dtype != self.dtype:
            raise ValueError("out must hold the gradients of this part's parameters, got those of another part")
        if not self.kind.place.writeable(out.flat):
            raise ValueError("out.flat must be writeable, got a read-only array")

    def _check_total(self, name: str, total: Any, found: NDArray[Any]) -> None:
        """That a gradient can be added to this array of the caller's."""
        if total is None:
            raise ValueError(f"{name} must have shape {found.shape}, got None: or pass input_grad=False")
        checks.output(name, total, self.kind, found.shape, "that of what it is the gradient of")

    def _infer(self, x: Any) -> NDArray[Any]:
        return self._train(x)[0]

    def _train(self, x: Any) -> tuple[NDArray[Any], Any]:
        raise NotImplementedError

    def _gradients(self, record: Any, dy: Any, params: Mapping[str, Any], input_grad: bool) -> NDArray[Any] | None:
        raise NotImplementedError

    def _at(self, function: Callable[..., Result], *arguments: Any) -> Result:
        with self.kind.place.current():
            return function(*arguments)

    # Moving, copying, saving

    def settings(self) -> dict[str, Any]:
        """The arguments that make another part like this one, but for device and seed; plain JSON."""
        raise NotImplementedError

    def to(self, device: str) -> Self:
        """Move the part to "cpu" or "cuda" (the current GPU), in place, and return it.

        Views of the old parameters, and tapes, are dead. Raises ``fastrnn.GPUUnavailable`` where no GPU can be used.
        """
        place = place_of(checks.device(device))
        if place != self.kind.place:
            self._settle(place, self.kind.place.to_host(self.flat_params))
        return self

    def _settle(self, place: Place, flat: NDArray[Any]) -> None:
        self.device, self.kind = place.device, Kind.of(place, self.dtype)
        self._parameters = FlatParameters(self.layout, place.from_host(flat))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__, _parameters=self.kind.place.to_host(self.flat_params))
        del state["kind"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._settle(place_of(self.device), np.array(state["_parameters"]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"


def _added(total: Gradients, grads: Gradients) -> Gradients:
    total.flat += grads.flat
    if grads.x is not None and total.x is not None:
        total.x += grads.x
    return total
