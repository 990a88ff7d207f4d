"""Which tests of the ordinary suite a mutant meets, in which order: those first that are most likely to find it.

A suite is a list of patterns; tests run in the order of the first pattern that their names have.
"""

from __future__ import annotations

import re

from tests.mutation.mutant import Mutant

__all__ = ["CPU_FILES", "CUDA_FILES", "suite"]

# Where arithmetic and addresses are, and what share of the mutants is made there.
CPU_FILES = {
    "kernels/cpu/cell_math.py": 0.22,
    "kernels/cpu/forward.py": 0.16,
    "kernels/cpu/backward.py": 0.18,
    "kernels/cpu/gradients.py": 0.10,
    "kernels/cpu/column_sums.py": 0.05,
    "kernels/cpu/states.py": 0.05,
    "kernels/cpu/layout.py": 0.08,
    "kernels/cpu/packing.py": 0.06,
    "kernels/cpu/packed.py": 0.02,
    "kernels/cpu/tiles.py": 0.04,
    "kernels/cpu/simd.py": 0.04,
}
CUDA_FILES = {
    "kernels/cuda/cell_math.cuh": 0.25,
    "kernels/cuda/units.cuh": 0.2,
    "kernels/cuda/rows.cuh": 0.1,
    "kernels/cuda/persistent.cuh": 0.15,
    "kernels/cuda/exchange.cuh": 0.05,
    "kernels/cuda/cluster.cuh": 0.06,
    "kernels/cuda/split.cuh": 0.06,
    "kernels/cuda/stepwise.cuh": 0.05,
    "kernels/cuda/sums.cuh": 0.02,
    "kernels/cuda/tensor_cores.cuh": 0.06,
    "kernels/cuda/dropout.cuh": 0.02,
}

_CELL_OF_CLASS = {
    "_TanhRNN": ["rnn_tanh"],
    "_SigmoidRNN": ["rnn_sigmoid"],
    "_ReluRNN": ["rnn_relu"],
    "_LSTM": ["lstm"],
    "_PeepholeLSTM": ["lstm_peephole"],
    "_CoupledLSTM": ["lstm_coupled"],
    "_PeepholeCoupledLSTM": ["lstm_peephole_coupled"],
    "_GRU": ["gru_reset_before"],
    "_ResetAfterGRU": ["gru_reset_after"],
    # CUDA
    "Rnn": ["rnn_tanh"],
    "Tanh": ["rnn_tanh"],
    "Sigmoid": ["rnn_sigmoid"],
    "Relu": ["rnn_relu"],
    "Lstm": ["lstm_peephole", "lstm", "lstm_coupled", "lstm_peephole_coupled"],
    "ResetBefore": ["gru_reset_before"],
    "ResetAfter": ["gru_reset_after"],
}
# Between them they have every kind of panel, phase and state.
_CELLS = ["rnn_tanh", "gru_reset_before", "lstm_peephole", "gru_reset_after", "lstm"]
_TWO_PHASES = {"activate_gates", "differentiate_gates", "load_gates", "store_gates", "gate_backward"}


def _cells(mutant: Mutant) -> list[str]:
    name = mutant.function.partition(".")[0]
    if name in _CELL_OF_CLASS:
        return _CELL_OF_CLASS[name]
    if name in _TWO_PHASES:
        return ["gru_reset_before"]
    if "peephole" in name:
        return ["lstm_peephole", "lstm_peephole_coupled"]
    if name in ("_dsigmoid", "_dtanh"):
        return ["lstm", "rnn_tanh"]
    return _CELLS


def suite(mutant: Mutant, wide: bool) -> tuple[list[str], list[str]]:
    """Files of tests, and patterns. Not wide: the few that find nearly all."""
    if mutant.file.startswith("kernels/cuda"):
        return _cuda_suite(mutant, wide)
    cells = _cells(mutant)
    patterns: list[str] = []
    if mutant.file.endswith("simd.py"):
        patterns.append(r"test_functions\.py")
    # A mutant that survives these few meets some of each other kind: what is stored as bfloat16, what reads too far.
    last = [rf"test_page_ends.*\[{cell}-" for cell in cells[:2]]
    last += [rf"test_(one_infinite_input_saturates|weights_beyond_the_cache).*\W{cell}\W" for cell in cells[:2]]
    if mutant.file.endswith(("packing.py", "tiles.py", "simd.py")):
        last += [rf"test_it_is_inference_with_rounded_weights.*-{cell}\]" for cell in cells[:2]]
    for dtype in ("float64", "float32") if wide else ("float64",):
        for cell in cells if wide else cells[:4]:
            start = rf"\[{cell}-"
            patterns += [
                rf"test_structures{start}.*{dtype}-2layers-bidirectional-ragged-resets\]",
                rf"test_sizes{start}.*{dtype}",
                rf"test_larger_than_a_tile{start}{dtype}",
                rf"test_structures{start}.*{dtype}",
                rf"test_(any_number_of_threads|a_row_in_any_batch|a_row_in_any_ragged_batch){start}{dtype}",
                rf"test_step_by_step_is_the_layer{start}{dtype}",
                rf"test_recompute\.py.*{cell}-{dtype}",
            ]
    if not wide:
        names = ("test_cells", "test_invariance", "test_page_ends", "test_bfloat16_weights", "test_numerics")
        names += ("test_functions",) * mutant.file.endswith("simd.py")
        return [f"tests/{name}.py" for name in names], patterns + last
    for cell in cells:
        patterns += [
            rf"test_(cells|numerics|contract_inputs|contract_shapes|contract_tape|stream|recompute)\.py.*\W{cell}\W"
        ]
    patterns += [r"test_(guards|page_ends|bfloat16_weights|single_steps|memory|shapes_at_random)\.py"]
    return [f"tests/{name}.py" for name in _CPU_TESTS], patterns


_CPU_TESTS = (
    "test_cells", "test_invariance", "test_stream", "test_recompute", "test_contract_inputs", "test_contract_shapes",
    "test_contract_tape", "test_functions", "test_guards", "test_bfloat16_weights", "test_single_steps", "test_memory",
    "test_shapes_at_random", "test_numerics", "test_page_ends",
)  # fmt: skip


def _cuda_suite(mutant: Mutant, wide: bool) -> tuple[list[str], list[str]]:
    file = re.sub(r".*/|\.cuh", "", mutant.file)
    cells = [c for c in _cells(mutant) if c != "lstm"] + ["lstm"] * ("lstm" in _cells(mutant))
    own = {
        "persistent": [
            "any_schedule.*{}-float32-exact-persistent", "any_schedule_of_products_that_are_split.*{}-",
            "test_layers_a_chunk_behind_each_other",
        ],
        "exchange": ["any_schedule.*{}-float32-exact-persistent", "test_any_schedule_of_two_columns.*{}-"],
        "cluster": ["any_schedule.*{}-(float32|bfloat16)-exact-cluster", "test_blocks_that"],
        "split": ["test_split_products", "any_schedule_of_products_that_are_split.*{}-"],
        "tensor_cores": ["any_schedule.*{}-float32-(3x)?tf32", "any_schedule.*{}-bfloat16-exact"],
        "dropout": ["TestDropout.*stepwise.*{}", r"test_(dropout_is|masks_are)_the_cpus", "test_masks_between_layers"],
        "rows": ["test_inference_in_pieces"],
    }.get(file, [])  # fmt: skip
    cells = cells if wide else cells[:4]
    patterns = [pattern.format(cell) for pattern in own for cell in cells]
    for policy in ("persistent", "stepwise") if file == "persistent" else ("stepwise", "persistent"):
        for cell in cells:
            start = rf"\[{policy}-{cell}-"
            patterns += [
                rf"TestCells::test_structures{start}.*2layers-bidirectional",
                rf"TestCells::test_structures{start}",
                rf"TestCells::test_sizes{start}",
                rf"TestCells::test_(larger|inference|no_state|uninit).*{start}",
                rf"TestContractShapes::test_(either|past|a_reset|a_length).*\[{policy}-{cell}\W",
            ]
    if not wide:
        patterns += [r"test_no_report\[address-(RNN|LSTM)\]"]
        more = ("schedules", "clusters", "directions", "wavefront", "layers")
        names = ("contract", "sanitized_layers", *(more if own else ()))
        return [f"tests/cuda/test_{name}.py" for name in names], patterns
    patterns += [rf"(TestStream|TestRecompute|TestContractInputs).*stepwise-{cells[0]}"]
    patterns += [rf"test_(schedules|clusters|directions)\.py.*{cell}" for cell in cells]
    patterns += [r"test_low_precision.py.*tf32-.*17"] * (file == "tensor_cores") + [r"TestDropout.*stepwise"]
    patterns += [r"test_(wavefront|sanitized_layers)\.py"]
    names = ("contract", "schedules", "clusters", "directions", "wavefront", "layers", "sanitized_layers")
    names += ("low_precision",) * (file == "tensor_cores")
    return [f"tests/cuda/test_{name}.py" for name in names], patterns
