"""What only a layer on a GPU does: whose arrays it takes, moving, copies, streams, graphs, and nothing on the host."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn
from fastrnn.places import place_of
from tests.cases import LAYERS
from tests.cuda import emulator, stand_in
from tests.cuda.bridge import only

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

T, B, I, H = 5, 4, 6, 16
LENGTHS = [5, 0, 3, 5]
KINDS = ("rnn_tanh", "lstm", "gru_reset_before")
POLICIES = ("stepwise", "persistent", "cluster")


@pytest.fixture
def cupy():
    with stand_in.installed(devices=2) as module:
        yield module


def layer_of(cell="lstm", **options):
    kind, cell_options = LAYERS[cell]
    sizes = {"num_layers": 2, "bidirectional": True, "device": "cuda", "seed": 3}
    return getattr(fastrnn, kind)(I, H, **sizes | cell_options | options)


def numbers(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def host_x(**options):
    return numbers(T, B, I, **options)


def train(layer, x, dy=None, **options):
    """y, h and grads.flat, which depend on everything."""
    y, state, tape = layer.forward(x, **options)
    grads = layer.backward(tape, y if dy is None else dy)
    return y, state[0] if isinstance(state, tuple) else state, grads.flat


def same(got, want):
    assert [a.get().tobytes() for a in got] == [a.get().tobytes() for a in want]


# ---- whose arrays ----


@pytest.mark.parametrize("call", ["inference", "forward", "stream"])
def test_a_numpy_array_on_a_gpu(cupy, call):
    layer = layer_of(bidirectional=False)
    run = {"inference": layer, "forward": layer.forward, "stream": layer.stream(B)}[call]
    x = host_x()[0] if call == "stream" else host_x()
    with pytest.raises(TypeError, match=r"x.* is a NumPy array.*cupy\.asarray\(x.*layer\.to\(\"cpu\"\)"):
        run(x)


def test_any_numpy_array_on_a_gpu(cupy):
    layer, x = layer_of("gru_reset_after"), cupy.asarray(host_x())
    state = numbers(4, B, H)
    with pytest.raises(TypeError, match="state is a NumPy array"):
        layer(x, state)
    with pytest.raises(TypeError, match="resets is a NumPy array"):
        layer(x, resets=np.zeros((T, B), bool))
    y, _, tape = layer.forward(x)
    with pytest.raises(TypeError, match="dy is a NumPy array"):
        layer.backward(tape, y.get())
    with pytest.raises(TypeError, match="dstate is a NumPy array"):
        layer.backward(tape, dstate=state)
    layer.backward(tape, y)
    with pytest.raises(TypeError, match=r"lengths must be on the host.*asnumpy"):
        layer(x, lengths=cupy.asarray(np.array(LENGTHS)))


def test_a_cupy_array_on_the_cpu(cupy):
    layer = layer_of(device="cpu")
    with pytest.raises(TypeError, match=r"x is a CuPy array.*layer\.to\(\"cuda\"\).*cupy\.asnumpy\(x\)"):
        layer(cupy.asarray(host_x()))
    with pytest.raises(TypeError, match=r"state\[0\].* is a CuPy array"):
        layer(host_x(), (cupy.zeros((4, B, H), "float32"),) * 2)


def test_another_gpus_array(cupy):
    layer = layer_of()
    with cupy.cuda.Device(1):
        x = cupy.asarray(host_x())
        assert x.device.id == 1
    with pytest.raises(ValueError, match=r"x is on GPU 1, but the layer is on GPU 0: .*cupy\.cuda\.Device\(0\)"):
        layer(x)


def test_a_layer_stays_on_its_gpu(cupy):
    """Whichever is current when it is called; results lie where the layer does."""
    first = layer_of()
    with cupy.cuda.Device(1):
        second = layer_of()
        want = train(first, _on(cupy, 0), _on(cupy, 0, T, B, 2 * H))
        assert cupy.cuda.runtime.getDevice() == 1
    got = train(second, _on(cupy, 1), _on(cupy, 1, T, B, 2 * H))
    assert {a.device.id for a in want} == {0} and {a.device.id for a in got} == {1}
    assert cupy.cuda.runtime.getDevice() == 0
    same(got, want)


def _on(cupy, device, *shape):
    with cupy.cuda.Device(device):
        return cupy.asarray(numbers(*shape or (T, B, I)))


def test_arrays_of_other_libraries(cupy):
    """By DLPack, without a copy; one of the host or another type is refused."""
    layer, x = layer_of(), cupy.asarray(host_x())
    same(train(layer, stand_in.ForeignArray(x)), train(layer, x))
    same([layer(stand_in.ForeignArray(x))[0]], [layer(x)[0]])

    class OnHost:
        def __dlpack_device__(self):
            return 1, 0

    for value, words in ((OnHost(), "another device"), ([[1.0]], "got list"), (None, "got NoneType")):
        with pytest.raises(TypeError, match=f"x .*{words}"):
            layer(value)
    with cupy.cuda.Device(1):
        far = stand_in.ForeignArray(cupy.asarray(host_x()))
    with pytest.raises(ValueError, match="GPU 1"):
        layer(far)


def test_dtypes(cupy):
    """x must have the layer's; the message has the cure. Gradients of parameters are float32 for 16 bits."""
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        layer = layer_of(dtype=dtype)
        x = cupy.asarray(host_x(dtype=dtype))
        y, state, flat = train(layer, x)
        assert y.dtype == state.dtype == layer.flat_params.dtype == np.dtype(dtype)
        assert flat.dtype == ("float64" if dtype == "float64" else "float32")
        other = "float16" if dtype == "float32" else "float32"
        with pytest.raises(TypeError, match=f"dtype {dtype}, got {other}: use .*astype.*or make the layer"):
            layer(x.astype(other))
    with pytest.raises(ValueError, match=r"one of .*bfloat16.* on a GPU, got int32"):
        layer_of(dtype="int32")
    with pytest.raises(ValueError, match="bfloat16"):
        layer_of().freeze(weights="bfloat16")


# ---- moving and copying ----


@pytest.mark.parametrize("cell", KINDS)
def test_there_and_back(cupy, cell):
    """The parameters keep their bits; results agree on both sides; views of before are dead."""
    layer = layer_of(cell, device="cpu")
    before, x = layer.flat_params.copy(), host_x()
    here, old = train(layer, x), layer.params["weight_hh_l0"]
    assert layer.to("cuda") is layer and layer.device == "cuda"
    assert layer.to("cuda") is layer
    assert type(layer.flat_params) is cupy.ndarray and layer.flat_params.get().tobytes() == before.tobytes()
    old[...] = np.nan
    there = [a.get() for a in train(layer, cupy.asarray(x))]
    for mine, theirs in zip(there, here, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    layer.flat_params[...] *= 2
    assert layer.to("cpu").device == "cpu" and type(layer.flat_params) is np.ndarray
    np.testing.assert_array_equal(layer.flat_params, before * 2)
    layer.flat_params *= 0.5
    for mine, theirs in zip(train(layer, x), here, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_tapes_and_gradients_of_before_are_refused(cupy):
    layer, x = layer_of(device="cpu"), host_x()
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, y, keep_tape=True)
    layer.to("cuda")
    there = cupy.asarray(x)
    Y, _, new_tape = layer.forward(there)
    with pytest.raises(ValueError, match=r"tape .*layer\.to\(\)"):
        layer.backward(tape, Y)
    with pytest.raises((TypeError, ValueError), match="out"):
        layer.backward(new_tape, Y, out=grads)
    layer.backward(new_tape, Y)
    layer.to("cpu")
    layer.backward(tape, y)


def test_from_one_gpu_to_another(cupy):
    """to("cuda") is to the current one."""
    layer = layer_of()
    want = train(layer, _on(cupy, 0))
    _, _, tape = layer.forward(_on(cupy, 0))
    with cupy.cuda.Device(1):
        layer.to("cuda")
    assert layer.flat_params.device.id == 1
    with pytest.raises(ValueError, match=r"tape .*layer\.to\(\)"):
        layer.backward(tape, _on(cupy, 1, T, B, 2 * H))
    same(train(layer, _on(cupy, 1)), want)


def test_frozen_layers_move_frozen(cupy):
    layer, x = layer_of(device="cpu").freeze(), host_x()
    want, _ = layer(x)
    layer.to("cuda")
    assert layer.frozen
    got, _ = layer(cupy.asarray(x))
    np.testing.assert_allclose(got.get(), want, rtol=0, atol=1e-5)
    packed = layer.packed_weights(False)
    assert layer.packed_weights(False) is packed and layer.packed_weights(True) is not None
    layer.to("cpu")
    assert layer.frozen and not layer.flat_params.flags.writeable
    np.testing.assert_array_equal(layer(x)[0], want)


@pytest.mark.parametrize("cell", KINDS)
def test_frozen_computes_the_same(cupy, cell):
    layer, x = layer_of(cell), cupy.asarray(host_x())
    want = train(layer, x, lengths=LENGTHS)
    layer.freeze()
    same(train(layer, x, lengths=LENGTHS), want)
    same([layer(x, lengths=LENGTHS)[0]], want[:1])
    layer.unfreeze()
    layer.flat_params[...] = 0
    assert not layer(x)[0].get().any() or cell == "rnn_sigmoid"


def test_what_the_cpu_lacks_stays_on_the_gpu(cupy):
    for change in ({"dtype": "float16"}, {"dtype": "bfloat16"}, {"precision": "tf32"}):
        layer = layer_of(**{key: value for key, value in change.items() if key == "dtype"})
        layer.precision = change.get("precision", "exact")
        with pytest.raises(ValueError, match="on the CPU"):
            layer.to("cpu")
        assert layer.device == "cuda"
        layer(cupy.asarray(host_x(dtype=layer.dtype)))
    with pytest.raises(ValueError, match="on the CPU"):
        layer_of(device="cpu").precision = "tf32"
    frozen = layer_of(device="cpu").freeze(weights="bfloat16")
    with pytest.raises(ValueError, match="bfloat16"):
        frozen.to("cuda")
    assert frozen.device == "cpu" and frozen.frozen


COPIES = {"pickle": lambda layer: pickle.loads(pickle.dumps(layer)), "deepcopy": copy.deepcopy, "copy": copy.copy}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("how", COPIES)
def test_copies(cupy, how, frozen):
    """On the GPU again, with a buffer of their own that their params are views of."""
    layer, x = layer_of("lstm_peephole", dtype="float16", seed=1), cupy.asarray(host_x(dtype="float16"))
    if frozen:
        layer.freeze()
    twin = COPIES[how](layer)
    assert repr(twin) == repr(layer) and twin.frozen == frozen
    want = train(layer, x)
    same(train(twin, x), want)
    assert type(twin.flat_params) is cupy.ndarray
    twin.unfreeze()
    assert list(twin.params) == list(layer.params)
    for p in twin.params.values():
        assert cupy.shares_memory(p, twin.flat_params) and not cupy.may_share_memory(p, layer.flat_params)
    twin.flat_params[...] = 0
    assert not twin.params["weight_ih_l0"].get().any()
    same(train(layer, x), want)


def test_a_tape_holds_x_and_lets_go(cupy):
    layer, x = layer_of(), cupy.asarray(host_x())
    gone = weakref.ref(x)
    y, _, tape = layer.forward(x)
    del x
    gc.collect()
    assert gone() is not None
    layer.backward(tape, y)
    gc.collect()
    assert gone() is None


def test_a_stream_reuses_its_output(cupy):
    x = cupy.asarray(host_x())
    stream = layer_of(bidirectional=False).stream(B)
    first = stream(x[0])
    kept = first.get()
    second = stream(x[1])
    assert cupy.shares_memory(first, second) and (second.get() != kept).any()
    out = cupy.zeros((B, H), "float32")
    assert stream(x[2], out=out) is out
    third = out.get()
    stream(x[3])
    np.testing.assert_array_equal(out.get(), third)


# ---- streams, graphs, and no word to the host ----

HOST_KINDS = ("to host", "from host", "synchronize")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cell", LAYERS)
def test_the_current_stream_and_no_synchronisation(cupy, cell, policy):
    """Everything goes to the stream that is current; the host neither waits nor copies, but for tables of lengths."""
    layer, x = layer_of(cell, dropout=0.3), cupy.asarray(host_x())
    stream = cupy.cuda.Stream(non_blocking=True)
    with only(policy), stream:
        for options in ({}, {"lengths": LENGTHS}, {"recompute": 2}):
            with stand_in.watch() as calls:
                y, _, tape = layer.forward(x, seed=1, **options)
                layer(x, **{key: value for key, value in options.items() if key == "lengths"})
            with stand_in.watch() as back:
                layer.backward(tape, y)
            assert {"launch", "product"} <= {call.kind for call in calls} and "launch" in {call.kind for call in back}
            check_streams(stream, calls + back)
            host = [(call.kind, call.name) for call in calls + back if call.kind in HOST_KINDS]
            if "lengths" in options:
                assert set(host) <= {("from host", "an array")}, host
                assert not [call for call in back if call.kind in HOST_KINDS]
            else:
                assert host == []


def check_streams(stream, calls):
    """All on this one, but for a stream apart for each graph, to capture it and to run it beside another."""
    graphs = [k for k, call in enumerate(calls) if call.kind == "graph"]
    apart = {call.stream for call in calls} - {stream.ptr}
    assert 0 not in apart and len(apart) <= len(graphs)
    for k in graphs:
        if calls[k].stream in apart:
            check_beside(stream, calls, k)


def check_beside(stream, calls, k):
    """The graph launched by calls[k] runs after all that the stream did, and before all that it does then."""
    fork, begin, _, end = calls[k - 2 : k + 2]
    assert [call.kind for call in (fork, begin, end)] == ["record", "wait", "record"]
    assert [call.stream for call in (fork, begin, end)] == [stream.ptr, calls[k].stream, calls[k].stream]
    assert fork.details == begin.details
    join = next(i for i in range(k, len(calls)) if calls[i][::3] == ("wait", end.details))
    assert calls[join].stream == stream.ptr
    assert {call.kind for call in calls[k:join]} <= {"graph", "record", "wait"}


def training_loop(cupy, cell, calls, keep):
    """Of each call: graphs, launches of a step's kernel, launches, results. ``keep``: results live until replaced."""
    layer = layer_of(cell, num_layers=1, bidirectional=False).freeze()
    x, dy = cupy.asarray(host_x()), cupy.asarray(numbers(T, B, H, seed=1))
    for _ in range(calls):
        with stand_in.watch() as seen:
            y, state, tape = layer.forward(x)
            grads = layer.backward(tape, dy)
        names = [call.name for call in seen if call.kind == "launch"]
        results = [a.get().tobytes() for a in (y, grads.x, grads.flat)]
        if not keep:
            del y, state, tape, grads
        yield sum(call.kind == "graph" for call in seen), names.count("forward_0"), len(names), results


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_the_third_identical_call_is_a_replay(cupy, cell, keep):
    """Seen, captured, then replayed without a launch of a step but the graph's; the same bits, wherever results lie."""
    with only("stepwise"):
        graphs, steps, launches, results = map(list, zip(*training_loop(cupy, cell, 5, keep), strict=True))
    assert all(result == results[0] for result in results)
    assert graphs == [0, 2, 2, 2, 2], "one forward and one back"
    assert steps == [T, T, 0, 0, 0], "captured by the second call, and not asked for by the third"
    assert launches[2] == launches[3] <= launches[0] - 2 * T


def test_a_replay_sees_new_numbers(cupy):
    """The addresses are the same, what lies there is not."""
    layer = layer_of(num_layers=1, bidirectional=False).freeze()
    x, outputs = cupy.asarray(host_x()), []
    with only("stepwise"):
        for k in range(5):
            x[...] = cupy.asarray(host_x(seed=k % 3))
            y, _ = layer(x)
            outputs.append(y.get())
            del y
    np.testing.assert_array_equal(outputs[3], outputs[0])
    np.testing.assert_array_equal(outputs[4], outputs[1])
    assert (outputs[1] != outputs[0]).any()


def test_in_a_graph_of_the_callers(cupy):
    """A stream that the caller captures: nothing of ours is captured apart."""
    layer = layer_of(num_layers=1, bidirectional=False, dtype="float32").freeze()
    x = cupy.asarray(host_x())
    want = layer(x)[0].get()
    stream = cupy.cuda.Stream(non_blocking=True)
    with only("persistent"), stream:
        layer(x)
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeRelaxed)
        try:
            y, _ = layer(x)
        except NotImplementedError as refused:
            assert "cuBLAS" in str(refused)  # CuPy's word, not ours
            y = None
        finally:
            graph = stream.end_capture()
        if y is not None:
            graph.launch(stream)
            np.testing.assert_array_equal(y.get(), want)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cell", LAYERS)
def test_bitwise_repeatable(cell, policy):
    """In new memory, after other calls, in another schedule of the same kernels."""
    found = []
    for seed in (1, 2):
        with stand_in.installed(seed=seed) as cupy, only(policy):
            layer = layer_of(cell, dropout=0.5)
            x = cupy.asarray(host_x())
            if seed == 2:
                train(layer, x[:3])
            found += [[a.get().tobytes() for a in train(layer, x, lengths=LENGTHS, seed=9)] for _ in range(2)]
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cell", KINDS)
def test_several_threads_on_one_layer(cupy, cell, policy):
    """Each on a stream of its own, with graphs captured meanwhile: what one caller alone gets."""
    layer, barrier = layer_of(cell), threading.Barrier(4)
    xs = [cupy.asarray(host_x(seed=k)) for k in range(4)]

    def caller(k):
        barrier.wait()
        with cupy.cuda.Stream(non_blocking=True):
            return [[a.get().tobytes() for a in train(layer, xs[k], lengths=LENGTHS)] for _ in range(4)]

    with only(policy):
        want = [[a.get().tobytes() for a in train(layer, x, lengths=LENGTHS)] for x in xs]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(caller, range(4)))
    assert got == [[alone] * 4 for alone in want]


def test_dropout_is_the_cpus(cupy):
    """The same seed, the same mask: results agree, and another seed's do not."""
    here, there = layer_of(device="cpu", dropout=0.5), layer_of(dropout=0.5)
    x, X = host_x(), cupy.asarray(host_x())
    for mine, theirs in zip(train(there, X, seed=4), train(here, x, seed=4), strict=True):
        np.testing.assert_allclose(mine.get(), theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    assert np.abs(train(there, X, seed=5)[0].get() - train(here, x, seed=4)[0]).max() > 1e-2


@pytest.mark.parametrize("count", [5, 5001])
def test_masks_are_the_cpus(cupy, count):
    """Of several blocks of threads, too."""
    here, there = np.ones(count, np.float32), cupy.asarray(np.ones(count, np.float32))
    for array, device in ((here, "cpu"), (there, "cuda")):
        place_of(device).apply_mask(array, 0.3, 7, 2)
    np.testing.assert_array_equal(there.get(), here)
