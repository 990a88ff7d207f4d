"""The public contract on a GPU: the tests of the CPU, collected once more with layers of device "cuda".

They run on the real CuPy where there is a GPU (marked ``gpu``), else on the stand-in, by each of the policies. See
bridge.py for how they speak NumPy, and below for what is left out or asked otherwise, and why.
"""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests import (
    checks,
    test_cells,
    test_contract_errors,
    test_contract_inputs,
    test_contract_params,
    test_contract_shapes,
    test_contract_tape,
    test_dropout,
    test_invariance,
    test_recompute,
    test_shapes_at_random,
    test_stream,
)
from tests.cases import LAYERS, Case
from tests.cuda import bridge, emulator

pytestmark = [
    pytest.mark.gpu
    if bridge.GPU
    else pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-"),
]
POLICIES = ("stepwise", "persistent")

# ---- what is no matter of a GPU ----

LEFT_OUT = {
    # CuPy's arrays have no flag "writeable"
    test_contract_params: ["test_frozen_is_read_only_and_the_same"],
    test_contract_errors: ["test_a_read_only_out_is_refused"]
    # The CPU's threads
    + ["test_bad_thread_counts", "test_thread_counts_above_the_cores_are_legal"],
    test_recompute: ["test_any_number_of_threads"]
    # The schedule is the host's, and tested there
    + ["test_segments_walk_the_whole"]
    # NumPy's allocations are counted or replaced; the stand-in's memory is NaN always, and counted in test_layers.py
    + ["test_memory", "test_everything_is_written"],
    test_cells: ["test_uninitialised_memory_reaches_no_result"]
    # The blocks in which the CPU's backward takes its weights
    + ["test_weights_beyond_the_cache"],
    # A file mapped into memory is the host's
    test_contract_inputs: ["test_memory_mapped_files"]
    # Of the blocks that the CPU's kernels reuse
    + ["test_large_buffers_are_not_shared_by_calls_that_overlap"],
    # Of the host's objects, here as copies: in test_layers.py of CuPy's
    test_contract_tape: ["test_x_is_not_copied_and_let_go_of"]
    # They write to NumPy's gradients themselves
    + ["test_accumulation_into_an_array_that_kernels_can_not_write_to"]
    + ["test_accumulation_needs_every_part_of_the_state"],
    test_stream: ["test_the_output_is_reused_unless_out_is_given"],
}
# Of test_invariance these alone: the others are about threads and processes, or a row's bits in another batch, which a
# GPU does not promise.
TAKEN = {test_invariance: ["test_pieces_of_a_sequence"]}

# Cases that a CuPy array can't be, that mean the same there, or that are many: (test, argument) -> which are kept.
KEPT = {
    # CuPy has neither an array of objects nor one of foreign byte order
    ("test_bad_inputs", "arguments"): lambda a: getattr(a.get("x"), "dtype", None) not in (np.dtype(">f4"), object),
    # A GPU has float16
    ("test_bad_options", "options"): lambda options: options.get("dtype") != "float16",
    # An array comes up aligned and can be written to
    ("test_any_layout", "layout"): lambda layout: layout not in ("unaligned", "read_only"),
    # What these ask has little to do with the cell or the size, and takes long.
    ("test_step_by_step_is_the_layer", "H"): lambda H: H == 17,
    ("test_as_if_every_step_were_kept", "dtype"): lambda dtype: dtype == "float32",
    ("test_lengths_in_any_form_and_order", "cell"): lambda cell: cell == "lstm",
    ("test_gradients_that_do_not_come_in", "cell"): lambda cell: cell in ("lstm", "gru_reset_before"),
}

# Tests that compare bits of calls with different shapes, which a GPU does not promise: here, closeness.
TO_ROUNDING = {
    "test_a_length_is_a_shorter_sequence",
    "test_a_reset_starts_a_new_sequence",
    "test_a_snapshot_of_the_parameters",
    "test_batch_first_streams_alike",
    "test_gradients_that_do_not_come_in",
    "test_inference_is_the_forward_pass",
    "test_layouts",
    "test_nan_stays_in_its_row",
    "test_no_dropout_in_a_stream",
    "test_one_row_without_its_axis",
    "test_one_unbatched_sequence",
    "test_out_may_be_the_input",
    "test_out_may_have_any_strides",
    "test_pieces_of_a_sequence",
    "test_ragged_batches_drop_alike",
    "test_reset",
    "test_resets_of_an_unbatched_sequence",
    "test_step_by_step_is_the_layer",
    "test_streams_are_apart",
}

# ---- how much of it, as an emulated GPU is a thousand times slower than a CPU ----

# By one policy: these never come to a kernel, or any will do.
ANY_POLICY = {"test_initial_values", "test_repr_names_what_differs_from_the_defaults", "test_options_of_another_cell"}
ANY_POLICY |= {name for name in vars(test_contract_errors) if name.startswith("test_")}


def structures():
    """Every structure of every cell and dtype; with resets, every other."""
    for case in test_cells.structures():
        if case.resets == (case.num_layers - 1 + case.bidirectional + case.ragged + case.bias) % 2:
            yield case


def sizes():
    """For every cell and dtype two H, and two T and B of each, in turns; then several blocks and columns."""
    seen: dict[tuple, list] = {}
    for case in test_cells.sizes():
        seen.setdefault((case.cell, case.dtype), []).append(case)
    for k, cases in enumerate(seen.values()):
        chosen = cases[8 * (k % 7) :][:8] + cases[8 * ((k + 3) % 7) :][:8]
        yield from (case for i, case in enumerate(chosen) if (i + k) % 4 in (1, 2))
    for k, (cell, dtype) in enumerate(seen):
        yield Case(cell, T=3, B=9 + k % 2, I=6, H=(40, 66)[k % 2], dtype=dtype, ragged=True, bidirectional=k % 4 < 2)


def larger():
    """A shape and a dtype for each cell, in turns."""
    whole = [(3, 70, 9, 48), (40, 33, 50, 20), (2, 1, 700, 5), (9, 6, 2, 300)]
    return [(cell, ("float32", "float64")[k % 2], *whole[k % 4]) for k, cell in enumerate(LAYERS)]


def thousand():
    return [(cell, "float32", k % 2 == 1) for k, cell in enumerate(LAYERS)]


REPLACED = {
    "test_structures": ("case", structures),
    "test_sizes": ("case", sizes),
    "test_larger_than_a_tile": ("cell, dtype, T, B, I, H", larger),
    "test_a_thousand_steps": ("cell, dtype, bidirectional", thousand),
}


# ---- collecting ----


def collected(module):
    """The tests of a module, as a class."""
    names = [name for name in vars(module) if name.startswith("test_")]
    unknown = set(LEFT_OUT.get(module, [])) | set(TAKEN.get(module, [])) - set(names)
    assert unknown <= set(names), unknown
    names = [name for name in TAKEN.get(module, names) if name not in LEFT_OUT.get(module, [])]
    return type(
        "".join(part.capitalize() for part in module.__name__.rpartition(".")[2].split("_")),
        (),
        {name: staticmethod(again(getattr(module, name))) for name in names},
    )


def again(test):
    """The same function with its cases chosen anew."""
    if hasattr(test, "hypothesis"):
        few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        return few(given(test_shapes_at_random.problems())(copied(test.hypothesis.inner_test)))
    marks = [kept(test.__name__, mark) for mark in getattr(test, "pytestmark", [])]
    if test.__name__ in REPLACED:
        arguments, cases = REPLACED[test.__name__]
        mark = pytest.mark.parametrize(arguments, list(cases()), ids=str if arguments == "case" else None).mark
        marks = [mark]
    test = copied(test)
    test.pytestmark = marks
    return test


def copied(test):
    function = types.FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    function.__dict__.update(copy.copy(vars(test)))
    function.__kwdefaults__, function.__doc__ = test.__kwdefaults__, test.__doc__
    return function


def kept(name, mark):
    """A parametrize mark without what KEPT leaves out."""
    arguments = [argument.strip() for argument in mark.args[0].split(",")] if mark.name == "parametrize" else []
    for k, argument in enumerate(arguments):
        keep = KEPT.get((name, argument))
        if keep is not None:
            rows = [row for row in mark.args[1] if keep(row[k] if len(arguments) > 1 else row)]
            assert 0 < len(rows) < len(mark.args[1]), f"{name} has no such case any more"
            return pytest.mark.parametrize(mark.args[0], rows, **mark.kwargs).mark
    return mark


MODULES = [test_cells, test_contract_errors, test_contract_inputs, test_contract_params, test_contract_shapes]
MODULES += [test_contract_tape, test_dropout, test_invariance, test_recompute, test_shapes_at_random, test_stream]
vars().update({case.__name__: case for case in map(collected, MODULES)})


def pytest_generate_tests(metafunc):
    if "policy" in metafunc.fixturenames:
        policies = POLICIES[1:] if metafunc.function.__name__ in ANY_POLICY else POLICIES
        metafunc.parametrize("policy", policies, indirect=True)


@pytest.fixture(autouse=True)
def policy(request, monkeypatch):
    """A device, every layer on it, by one policy."""
    test_contract_errors.layer_of.cache_clear()
    monkeypatch.setattr(checks, "WHERE", f"{'GPU' if bridge.GPU else 'emulated'} {request.param}")
    monkeypatch.setattr(test_recompute, "assert_same_bits", assert_same_to_rounding)
    monkeypatch.setattr(test_recompute, "EVERY", (1, 3, 10**30))
    if request.function.__name__ in TO_ROUNDING:
        monkeypatch.setattr(np.testing, "assert_array_equal", assert_equal_to_rounding)
    with bridge.device(), bridge.bridged(), bridge.only(request.param):
        yield
    test_contract_errors.layer_of.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not bridge.GPU, reason=bridge.WHY_NO_GPU or "-")
def test_it_is_the_real_cupy(policy):
    import cupy

    assert cupy.__file__ and cupy.cuda.runtime.getDeviceCount()


def assert_same_to_rounding(got, want, skip="grads.params"):
    """In place of test_recompute's assert_same_bits: a product over fewer rows may be summed in another order."""
    names = [name for name in want.named() if not name.startswith(skip)]
    assert names
    for name in names:
        assert_equal_to_rounding(got.named()[name], want.named()[name], name)


def assert_equal_to_rounding(got, want, err_msg=""):
    """In place of np.testing.assert_array_equal: NaN where NaN is, else as close as the reference must be."""
    got, want = np.asarray(got), np.asarray(want)
    tolerance = checks.TOLERANCE[str(np.result_type(got, want))]
    assert got.shape == want.shape
    if want.size:
        scale = max(1.0, np.nanmax(np.abs(want), initial=0.0))
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale, err_msg=err_msg)
