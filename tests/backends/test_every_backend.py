"""What every runtime behind the seam must do alike.

Runtimes are native code in this process here, so files that may kill it are tried in a child, as the agent does.
"""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import BackendUnavailable, ModelRefused, WorkerLost
from agent.inference.backend import REGISTRY, Entry, LoadOptions, Port, open_backend
from agent.inference.launch import spawn
from agent.inference.messages import Load
from bundles.errors import InputRefused

WEIGHTS = np.array([[0.5, -1.0, 0.25], [1.0, 0.5, -0.5], [-0.25, 0.75, 1.0], [0.125, -0.5, 0.5]])
BIAS = np.array([0.1, -0.2, 0.3])
INT8_STEP = 0.01622
"""One step of the shipped models' int8 output; runtimes may differ by a step or two."""

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)


@pytest.fixture
def session(case):
    session = case.load()
    yield session
    session.close()


def expected(case, x: np.ndarray) -> np.ndarray:
    if case.name == "fake":
        return np.full((len(x), 3), x.mean())
    return np.clip(x @ WEIGHTS + BIAS, -127 * INT8_STEP, 128 * INT8_STEP)  # int8 saturates; its zero point is -1


def test_names_and_dtypes_are_the_contracts(session):
    io = session.io()
    assert [(port.name, port.dtype) for port in io.inputs] == [("x", "float32")]
    assert [(port.name, port.dtype) for port in io.outputs] == [("y", "float32")]


def test_without_promises_the_model_file_speaks_for_itself(case):
    session = case.load(LoadOptions())
    (port,) = session.io().inputs
    assert port.dtype == ("float32" if case.name == "fake" else "int8")
    answer = session.run({port.name: np.zeros((1, 4), dtype=port.dtype)})
    assert list(answer) == [session.io().outputs[0].name]
    session.close()


@shared
@given(values=st.lists(st.floats(-1.0, 1.0, width=32), min_size=4, max_size=4))
def test_the_answer_is_right_to_a_few_steps(case, values):
    session = case.load()
    x = np.array([values], dtype=np.float32)
    y = session.run({"x": x})["y"]
    session.close()
    assert y.dtype == np.float32
    assert y.shape == (1, 3)
    assert np.abs(y - expected(case, x)).max() <= 3 * INT8_STEP


def test_the_same_input_gives_the_same_answer_and_leaves_the_last_one_alone(session):
    x = {"x": np.array([[0.1, -0.2, 0.3, -0.4]], dtype=np.float32)}
    first = session.run(x)["y"]
    kept = first.copy()
    session.run({"x": np.ones((1, 4), dtype=np.float32)})
    assert (first == kept).all()
    assert (session.run(x)["y"] == kept).all()


def test_a_batch_of_another_length_is_answered_row_by_row(case, session):
    x = np.array([[0.1, -0.2, 0.3, -0.4], [0.9, 0.1, -0.9, 0.5], [0.0, 0.0, 1.0, 0.0]], dtype=np.float32)
    together = session.run({"x": x})["y"]
    assert together.shape == (3, 3)
    assert np.abs(together - expected(case, x)).max() <= 3 * INT8_STEP
    assert session.run({"x": x[:1]})["y"].shape == (1, 3)


def test_an_array_that_is_not_contiguous_is_read_right(session):
    x = np.array([[0.1, -0.2, 0.3, -0.4]], dtype=np.float32)
    scattered = np.asfortranarray(np.repeat(x, 2, axis=1))[:, ::2]
    assert (session.run({"x": scattered})["y"] == session.run({"x": x})["y"]).all()


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "INPUT_NAME"),
        ({"other": np.zeros((1, 4), np.float32)}, "INPUT_NAME"),
        ({"x": np.zeros((1, 4), np.float64)}, "INPUT_DTYPE"),
        ({"x": np.zeros((1, 4), np.int8)}, "INPUT_DTYPE"),
        ({"x": np.zeros((1, 5), np.float32)}, "INPUT_SHAPE"),
        ({"x": np.zeros(4, np.float32)}, "INPUT_SHAPE"),
    ],
    ids=["none", "other name", "float64", "int8", "length", "rank"],
)
def test_a_wrong_input_is_refused_and_the_session_goes_on(session, inputs, code):
    with pytest.raises(InputRefused) as refused:
        session.run(inputs)
    assert refused.value.code == code
    assert session.run({"x": np.zeros((1, 4), np.float32)})["y"].shape == (1, 3)


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(inputs=(Port("x", "float32", (None, 5)),)),
        LoadOptions(inputs=(Port("x", "float32", (None, 4)), Port("x2", "float32", (None, 4)))),
        LoadOptions(outputs=(Port("y", "int64", (None, 3)),)),
    ],
    ids=["shape", "count", "dtype"],
)
def test_a_contract_the_file_cannot_keep_is_refused_at_load(case, options):
    with pytest.raises(ModelRefused) as refused:
        case.load(options)
    assert refused.value.code == "MODEL_IO"


def test_the_placement_is_read_back(session):
    assert session.placement().accelerator == "cpu"


def test_an_accelerator_that_is_not_there_is_refused_and_not_replaced(case):
    with pytest.raises(ModelRefused) as refused:
        case.backend.load(case.path, "npu0", case.options)
    assert refused.value.code == "ACCELERATOR_MISSING"


def test_probing_runs_a_model_on_the_cpu(case):
    accelerators = {accelerator.id: accelerator for accelerator in case.backend.probe()}
    assert accelerators["cpu"].usable
    assert "azure" not in accelerators


def test_a_file_of_another_format_is_refused(case, tmp_path):
    path = tmp_path / "model.pickle"
    path.write_bytes(case.path.read_bytes())
    with pytest.raises(ModelRefused) as refused:
        case.backend.load(path, "cpu", case.options)
    assert refused.value.code == "MODEL_FORMAT"


def test_a_missing_file_is_refused(case, tmp_path):
    with pytest.raises(ModelRefused) as refused:
        case.backend.load(tmp_path / f"none{case.path.suffix}", "cpu", case.options)
    assert refused.value.code == "MODEL_MISSING"


@pytest.mark.parametrize("damage", ["empty", "garbage", "text", "cut"])
def test_a_damaged_file_is_refused_or_kills_a_child_only(case, damage):
    data = case.path.read_bytes()
    case.path.write_bytes(
        {
            "empty": b"",
            "garbage": np.random.default_rng(5).bytes(4096),
            "text": b"{}" * 100,
            "cut": data[: len(data) // 2],
        }[damage]
    )
    child = spawn()
    try:
        with pytest.raises((ModelRefused, WorkerLost)) as refused:
            child.load(Load(case.name, str(case.path), "cpu", case.options), 30.0)
        if damage != "cut":  # half a file may crash tflite-runtime, which verifies nothing
            assert refused.type is ModelRefused
    finally:
        child.end()


def test_closing_twice_is_normal(case):
    session = case.load()
    session.close()
    session.close()


def test_a_cancel_when_nothing_runs_changes_nothing(session):
    thread = threading.Thread(target=session.cancel)
    thread.start()
    thread.join()
    assert session.placement().accelerator == "cpu"


def test_an_unknown_runtime_is_named_with_those_there_are():
    with pytest.raises(BackendUnavailable) as unavailable:
        open_backend("abacus")
    assert all(name in unavailable.value.remedy for name in REGISTRY)


def test_a_runtime_that_cannot_be_imported_says_what_to_install():
    registry = {"ghost": Entry("agent.inference.no_such_module:Backend", "ghost", "Install the ghost.")}
    with pytest.raises(BackendUnavailable) as unavailable:
        open_backend("ghost", registry)
    assert unavailable.value.remedy == "Install the ghost."
