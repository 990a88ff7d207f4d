"""Several parts by name: their parameters under one roof, in their own buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fastrnn.nn.arguments import floats
from fastrnn.parameters import ParameterDict, read_mapping
from fastrnn.parametric import Parametric
from fastrnn.tape import Gradients

__all__ = ["Model", "ModelGradients", "gradient_buffers", "leaves"]


class Model:
    """Parts by name: recurrent layers, parts of ``fastrnn.nn``, and other models.

    It groups and does not compute: ``model.embedding.forward(x)`` runs the part of that name. A class of one's own
    derives from it, makes its parts in ``__init__``, and adds ``forward`` and ``backward`` that return
    ``self.gradients(...)``; for saving it also needs ``settings()``, the arguments of its ``__init__``.

    Every part keeps its own flat buffer, which belongs to it alone, so that a part may be moved, frozen, copied or
    used in another model. (One buffer over all parts would have to be cut up again for the layers' backward, and
    would leave a moved part behind.) Optimisers and ``clip_grad_norm`` take a model and go over the buffers.

    Attributes
    ----------
    parts : dict name -> part, in the order given
    params : dict "part.name" -> array, views of the parts' buffers
    """

    kinds: ClassVar[dict[str, type[Model]]] = {}  # by the name of the class, for loading

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Model.kinds[cls.__name__] = cls

    def __init__(self, **parts: Any) -> None:
        for name, part in parts.items():
            if not isinstance(part, (Parametric, Model)):
                raise TypeError(f"{name} must be a layer, a part or a model, got {type(part).__name__}")
            if hasattr(type(self), name):
                raise ValueError(f"a part can't be called {name!r}: a model has an attribute of that name")
        self.parts: dict[str, Any] = parts
        seen: dict[int, str] = {}
        for name, leaf in leaves(self):
            if id(leaf) in seen:
                raise ValueError(f"{name} and {seen[id(leaf)]} are the same part: it would be trained twice a step")
            seen[id(leaf)] = name

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("parts", {})  # without it, while a copy is being made
        if name in parts:
            return parts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute or part {name!r}")

    @property
    def params(self) -> ParameterDict:
        """Dotted name -> array; write into the arrays in place."""
        return ParameterDict(
            (f"{prefix}.{name}", array) for prefix, leaf in leaves(self) for name, array in leaf.params.items()
        )

    def load_params(self, mapping: Mapping[str, Any]) -> None:
        """As a layer's ``load_params``, with dotted names. A load that fails changes nothing."""
        if not (hasattr(mapping, "keys") and hasattr(mapping, "__getitem__")):
            raise TypeError(f"mapping must map names to arrays, got {type(mapping).__name__}")
        for prefix, leaf in leaves(self):
            if leaf.frozen:
                raise RuntimeError(f"{prefix} is frozen: call unfreeze() before load_params()")
        own = self.params
        problems = [f"missing {name}" for name in own if name not in mapping.keys()]
        problems += [f"unexpected {name}" for name in mapping.keys() if name not in own]
        if problems:
            raise ValueError("mapping does not fit the model: " + "; ".join(problems))
        found = []
        for prefix, leaf in leaves(self):
            try:
                found.append(
                    read_mapping({name: mapping[f"{prefix}.{name}"] for name in leaf.params}, leaf.layout, leaf.dtype)
                )
            except (TypeError, ValueError) as error:
                raise type(error)(f"{prefix}: {error}") from None
        for (_, leaf), flat in zip(leaves(self), found, strict=True):
            with leaf.kind.place.current():
                leaf.flat_params[...] = leaf.kind.place.from_host(flat)

    def to(self, device: str) -> Self:
        """Move all parts to "cpu" or "cuda", in place, and return the model."""
        for part in self.parts.values():
            part.to(device)
        return self

    def gradients(self, x: Any = None, /, **parts: Any) -> ModelGradients:
        """The gradients of a whole model from those of its parts, all of which must be there, by name."""
        if parts.keys() != self.parts.keys():
            raise ValueError(f"gradients must be those of {', '.join(self.parts)}, got {', '.join(parts) or 'none'}")
        return ModelGradients({name: parts[name] for name in self.parts}, x)

    def settings(self) -> dict[str, Any]:
        """The arguments that make another model like this one; of a subclass, those of its ``__init__``."""
        return {"parts": self.parts}

    def __repr__(self) -> str:
        inside = "".join(f"\n  {name}: " + repr(part).replace("\n", "\n  ") for name, part in self.parts.items())
        return f"{type(self).__name__}({inside}\n)"


class ModelGradients:
    """The gradients of a model.

    Attributes
    ----------
    x : what ``backward`` of the model says, or None
    parts : dict name -> the gradients of each part
    params : dict "part.name" -> array
    flats : tuple of flat arrays, one of each part that has parameters, in the order of the model
    """

    def __init__(self, parts: dict[str, Any], x: Any = None) -> None:
        self.parts = parts
        self.x = x

    @property
    def params(self) -> ParameterDict:
        """Dotted name -> array."""
        return ParameterDict(
            (f"{part}.{name}", array) for part, grads in self.parts.items() for name, array in grads.params.items()
        )

    @property
    def flats(self) -> tuple[NDArray[Any], ...]:
        """The flat gradients, in the order of ``leaves``."""
        return tuple(gradient_buffers(self))

    def __repr__(self) -> str:
        return f"<ModelGradients of {', '.join(self.parts)}>"


def leaves(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and layer or part, of all that a model, a layer, or a sequence of them consists of."""
    if isinstance(part, Model):
        for name, inner in part.parts.items():
            yield from leaves(inner, f"{prefix}.{name}" if prefix else name)
    elif isinstance(part, Parametric):
        yield prefix, part
    elif isinstance(part, Sequence) and not isinstance(part, (str, bytes)):
        for k, inner in enumerate(part):
            yield from leaves(inner, f"{prefix}[{k}]")
    else:
        raise TypeError(f"parts must be layers, parts, models or a list of them, got {type(part).__name__}")


def gradient_buffers(grads: Any) -> Iterator[NDArray[Any]]:
    """The flat arrays of gradients, in the order in which ``leaves`` walks what they are of."""
    if isinstance(grads, ModelGradients):
        for inner in grads.parts.values():
            yield from gradient_buffers(inner)
    elif isinstance(grads, Gradients):
        yield grads.flat
    elif isinstance(grads, Sequence) and not isinstance(grads, (str, bytes)):
        for inner in grads:
            yield from gradient_buffers(inner)
    elif isinstance(grads, np.ndarray) or hasattr(grads, "__cuda_array_interface__"):
        yield floats("grads", grads)[0]
    else:
        raise TypeError(f"grads must be gradients, flat arrays or a list of them, got {type(grads).__name__}")
