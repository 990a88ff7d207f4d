"""One call of a stack as a ``torch.autograd.Function``, and the call that keeps nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from fastrnn import network
from fastrnn.parameters import FlatParameters
from fastrnn.torch.stack import KeptPacks, Stack

__all__ = ["Call", "run"]

Tensors = tuple[torch.Tensor, ...]


class Call(NamedTuple):
    """One call: what comes in, y and the final states go out."""

    x: torch.Tensor
    states: Tensors  # h, or h and c; none for zeros
    lengths: NDArray[Any] | None
    resets: torch.Tensor | None


def run(stack: Stack, call: Call, weights: list[torch.Tensor], kept: KeptPacks | None) -> Tensors:
    """y and the final states, with a history where something wants a gradient."""
    seed = _seed() if stack.drops else None
    if torch.is_grad_enabled() and _differentiable(call, weights):
        arguments = stack, call.lengths, call.resets, seed, len(call.states), call.x, *call.states, *weights
        found: Tensors = _Recurrence.apply(*arguments)
        return found
    with stack.exchange.entered():
        x, state, resets = _arrays(stack, call)
        if stack.drops:
            y, final, _ = network.train(_layer(stack.on(weights)), x, state, call.lengths, resets, seed, 0)
        else:
            packs = None if kept is None else kept.find(stack, weights)
            y, final = network.infer(_layer(stack.on(weights, packs)), x, state, call.lengths, resets, True)
        return _tensors(stack, y, final)


def _differentiable(call: Call, weights: list[torch.Tensor]) -> bool:
    return any(t.requires_grad for t in (call.x, *call.states, *weights))


def _seed() -> int:
    """Dropout follows ``torch.manual_seed``."""
    return int(torch.randint(1 << 62, ()).item())


def _layer(stack: Stack) -> Any:
    """A stack on weights is a layer as far as ``fastrnn.network`` looks."""
    return stack


def _arrays(stack: Stack, call: Call) -> tuple[Any, Any, Any]:
    """x, state and resets as ``fastrnn.network`` takes them."""
    array = stack.exchange.array
    states = [array(s) for s in call.states]
    state: Any = None
    if states:
        state = states[0] if len(states) == 1 else tuple(states)
    return array(call.x), state, None if call.resets is None else array(call.resets)


def _tensors(stack: Stack, y: Any, state: Any) -> Tensors:
    return tuple([stack.exchange.tensor(a) for a in (y, *(state if isinstance(state, tuple) else (state,)))])


class _Recurrence(torch.autograd.Function):
    """Forward through time with a tape, and back. States and weights come in as single arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        stack: Stack,
        lengths: NDArray[Any] | None,
        resets: torch.Tensor | None,
        seed: int | None,
        states: int,
        x: torch.Tensor,
        *tensors: torch.Tensor,
    ) -> Tensors:
        weights = list(tensors[states:])
        ctx.layer, ctx.states = stack.on(weights), states
        call = Call(x, tensors[:states], lengths, resets)
        with stack.exchange.entered():
            array, state, mask = _arrays(stack, call)
            y, final, ctx.tape = network.train(_layer(ctx.layer), array, state, lengths, mask, seed, 0)
            results = _tensors(stack, y, final)
        # The tape refers to x, and on a GPU to the weights: as saved tensors, PyTorch notices if they are written to.
        ctx.save_for_backward(x, *weights)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor | None, *dstates: torch.Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # raises if one was written to since, or the graph is gone
        needed = ctx.needs_input_grad[5:]
        found = (None,) * len(needed)
        if dy is not None or any(d is not None for d in dstates):
            with torch.no_grad():
                found = _gradients(ctx, needed, dy, dstates)
            if torch.is_grad_enabled():  # create_graph
                found = _refusing(found, saved)
        return None, None, None, None, None, *found


def _gradients(ctx: Any, needed: Any, dy: torch.Tensor | None, dstates: tuple[torch.Tensor | None, ...]) -> Any:
    """Those of x, of the initial states and of the weights; None for those that nobody wants."""
    layer: Stack = ctx.layer
    exchange = layer.exchange
    with exchange.entered():
        dy_array, *dstate = [None if d is None else exchange.array(d) for d in (dy, *dstates)]
        dstate_argument = tuple(dstate) if len(dstate) > 1 else dstate[0]
        kept = _graph_is_kept()
        found = network.backward(_layer(layer), ctx.tape, dy_array, dstate_argument, needed[0], kept, None)
        states = found.state if isinstance(found.state, tuple) else (found.state,)
        arrays: list[Any] = [found.x, *states[: ctx.states], *_in_order(found.parameters)]
        return tuple([exchange.tensor(a) if wanted else None for a, wanted in zip(arrays, needed, strict=True)])


class _Refusal(torch.autograd.Function):
    """The first ``count`` tensors; who differentiates them by any of the others is told that it can't be done."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: torch.Tensor) -> Tensors:
        return tuple([t.view_as(t) for t in tensors[:count]])

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[Any, ...]:
        raise RuntimeError("fastrnn.torch is differentiable once: its gradients have no gradients of their own")


def _refusing(gradients: tuple[torch.Tensor | None, ...], saved: Tensors) -> tuple[torch.Tensor | None, ...]:
    """Gradients that depend on x and the weights, by a derivative that there is not.

    PyTorch's ``once_differentiable`` gives constants where dy is one: a penalty on gradients would have no effect.
    """
    there = [g for g in gradients if g is not None]
    guarded = iter(_Refusal.apply(len(there), *there, *saved))
    return tuple([None if g is None else next(guarded) for g in gradients])


def _in_order(gradients: FlatParameters) -> list[NDArray[Any]]:
    """Gradients of the weights in the order of the layout."""
    return [array for part in gradients.weights for array in part if array is not None]


def _graph_is_kept() -> bool:
    """Whether this pass leaves the graph for another one (``retain_graph``): then it must not consume the tape."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else bool(asked())
