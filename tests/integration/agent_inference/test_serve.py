"""The local door over a real Unix socket, by our client and by plain HTTP."""

import http.client
import json
import logging
import os
import signal
import socket
import stat
import threading

import numpy as np
import pytest

from agent.client import Client
from agent.errors import DaemonUnreachable, ModelUnknown, RunFailed, SocketRefused
from agent.inference.serve import MAX_CONNECTIONS, LocalServer
from bundles.errors import InputRefused


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.sock"


@pytest.fixture
def server(engine, path):
    server = LocalServer(engine, path)
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(server, path):
    with Client(path) as client:
        yield client


@pytest.fixture
def ask(server, path):
    """Ask in plain HTTP; answers status and decoded JSON."""

    def exchange(method: str, target: str, body: bytes | None = None, headers: dict | None = None):
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        try:
            connection.request(method, target, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    return exchange


def infer_body(data=(0.1, 0.2, 0.3, 0.4), shape=(1, 4), name="x", datatype="FP32", **more) -> bytes:
    tensor = {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data)}
    return json.dumps({"inputs": [tensor], **more}).encode()


def test_a_client_gets_what_the_engine_answers(engine, fake, client, x):
    engine.load(fake())
    prediction = client.infer("team/fake", x)
    assert np.allclose(prediction.outputs["y"], 0.25)
    assert prediction.outputs["y"].dtype == np.float32
    assert (prediction.version, prediction.sha256) == ("1.0.0", "f" * 64)
    assert prediction.id != client.infer("team/fake", x).id
    assert engine.stats().ok == 2


def test_lists_are_converted_by_the_models_metadata(engine, fake, client):
    engine.load(fake())
    assert np.allclose(client.infer("team/fake", {"x": [[0.1, 0.2, 0.3, 0.4]]}).outputs["y"], 0.25)
    with pytest.raises(InputRefused) as refused:
        client.infer("team/fake", {"x": [[0.1, 0.2]]})
    assert refused.value.code == "INPUT_SHAPE"


def test_real_digits_through_the_socket(engine, digits, client):
    spec = digits("1.0.0", "litert")
    engine.load(spec)
    with np.load(spec.model_path.parent / "digits-goldens-1.0.0.npz", allow_pickle=False) as goldens:
        image, wanted = goldens["input.image"][:1], goldens["output.probabilities"][0]
    answer = client.infer("shop/digits", {"image": image}).outputs["probabilities"]
    assert answer.shape == (1, 10)
    assert answer.argmax() == wanted.argmax()


def test_models_and_readiness_follow_the_engine(engine, fake, client, wait_until):
    assert client.models() == []
    assert not client.ready()
    assert not client.ready("team/fake")
    engine.load(fake())
    assert client.models() == [{"name": "team/fake", "version": "1.0.0", "state": "READY", "reason": ""}]
    assert client.ready()
    assert client.ready("team/fake")
    os.kill(engine.status().worker_pid, signal.SIGKILL)
    wait_until(lambda: not client.ready("team/fake"), "the death of the worker to show")
    assert client.models()[0]["state"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"x": np.zeros((1, 5), np.float32)}, "INPUT_SHAPE"),
        ({"x": np.zeros((1, 4), np.float64)}, "INPUT_DTYPE"),
        ({"x": np.full((1, 4), np.nan, np.float32)}, "INPUT_MISSING_VALUE"),
        ({"x": np.full((1, 4), 9.0, np.float32)}, "INPUT_RANGE"),
        ({"z": np.zeros((1, 4), np.float32)}, "INPUT_NAME"),
        ({"x": np.zeros((1, 4), np.complex64)}, "INPUT_DTYPE"),
    ],
)
def test_a_bad_request_comes_back_with_its_code(engine, fake, client, inputs, code):
    engine.load(fake())
    with pytest.raises(InputRefused) as refused:
        client.infer("team/fake", inputs)
    assert refused.value.code == code
    assert refused.value.sentence
    assert refused.value.remedy


def test_what_goes_wrong_in_the_agent_comes_back_as_its_family(engine, fake, client, x):
    with pytest.raises(ModelUnknown):
        client.infer("team/fake", x)
    engine.load(fake(behaviour="nan"))
    with pytest.raises(RunFailed) as failed:
        client.infer("team/fake", x)
    assert failed.value.code == "OUTPUT_NONFINITE"


def test_a_client_follows_an_agent_that_was_restarted(engine, fake, path, x):
    engine.load(fake())
    first = LocalServer(engine, path)
    first.start()
    with Client(path) as client:
        assert client.infer("team/fake", x)
        first.close()
        assert not path.exists()
        with pytest.raises(DaemonUnreachable) as unreachable:
            client.infer("team/fake", x)
        assert "wavegate-agent run" in unreachable.value.remedy
        second = LocalServer(engine, path)
        second.start()
        assert client.infer("team/fake", x)
        second.close()


def test_a_kept_connection_the_agent_dropped_is_opened_again(engine, fake, path, x):
    engine.load(fake())
    with Client(path) as client:
        for _ in range(2):
            server = LocalServer(engine, path)
            server.start()
            assert client.infer("team/fake", x)
            server.close()


@pytest.mark.parametrize(
    "target",
    [
        "/v2/models/team/fake/infer",
        "/v2/models/team%2Ffake/infer",
        "/v2/models/team/fake/versions/1.0.0/infer",
        "/v2/models/team%2Ffake/versions/1.0.0/infer",
    ],
)
def test_the_protocol_is_answered_however_the_name_is_written(engine, fake, ask, target):
    engine.load(fake())
    status, answer = ask("POST", target, infer_body(id="r-1"))
    assert status == 200
    assert answer["id"] == "r-1"
    assert answer["model_name"] == "team/fake"
    assert answer["model_version"] == "1.0.0"
    assert answer["parameters"]["sha256"] == "f" * 64
    assert answer["parameters"]["prediction_id"]
    assert answer["outputs"][0]["shape"] == [1, 2]
    assert np.allclose(answer["outputs"][0]["data"], 0.25)


def test_metadata_and_health(engine, fake, ask):
    assert ask("GET", "/v2")[1]["name"] == "wavegate"
    assert ask("GET", "/v2/health/live") == (200, {"live": True})
    assert ask("GET", "/v2/health/ready") == (503, {"ready": False})
    engine.load(fake())
    assert ask("GET", "/v2/health/ready") == (200, {"ready": True})
    assert ask("GET", "/v2/models/team/fake/ready")[0] == 200
    status, metadata = ask("GET", "/v2/models/team/fake")
    assert status == 200
    assert metadata["versions"] == ["1.0.0"]
    assert metadata["platform"] == "fake_fake"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    [
        ("GET", "/", None, 404, "HTTP_NOT_FOUND"),
        ("GET", "/v2/models", None, 404, "HTTP_NOT_FOUND"),
        ("POST", "/v2/models/team/fake", infer_body(), 404, "HTTP_NOT_FOUND"),
        ("GET", "/v2/models/team/fake/infer", None, 404, "HTTP_NOT_FOUND"),
        ("POST", "/v2/models/team/other/infer", infer_body(), 404, "MODEL_UNKNOWN"),
        ("POST", "/v2/models/team/fake/versions/9/infer", infer_body(), 404, "MODEL_UNKNOWN"),
        ("POST", "/v2/models/team/fake/infer", b"{", 400, "INPUT_JSON"),
        ("POST", "/v2/models/team/fake/infer", infer_body(datatype="FP64"), 400, "INPUT_DTYPE"),
        ("POST", "/v2/models/team/fake/infer", infer_body(shape=(2, 4)), 400, "INPUT_SHAPE"),
        ("POST", "/v2/models/team/fake/infer", infer_body(outputs=[{"name": "q"}]), 400, "INPUT_NAME"),
        ("DELETE", "/v2/models/team/fake", None, 501, "HTTP_REFUSED"),
    ],
)
def test_each_refusal_has_a_status_a_code_a_sentence_and_a_remedy(
    engine, fake, ask, method, target, body, status, code
):
    engine.load(fake())
    found, answer = ask(method, target, body)
    assert (found, answer["code"]) == (status, code)
    assert answer["error"]
    assert answer["remedy"]


def test_a_request_that_cannot_even_be_read_is_counted(engine, fake, ask):
    engine.load(fake())
    ask("POST", "/v2/models/team/fake/infer", b"{")
    assert engine.stats().schema_rejects == {"INPUT_JSON": 1}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": "x"}, 411),
        ({"Content-Length": str(1 << 40)}, 413),
        ({"Content-Length": "-1"}, 411),
        ({"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_a_body_without_an_honest_length_is_refused(server, path, headers, status):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        lines = [f"{name}: {value}" for name, value in headers.items()]
        raw.sendall("\r\n".join(["POST /v2/models/a/b/infer HTTP/1.1", "Host: x", *lines, "", ""]).encode())
        assert raw.recv(1000).split()[1] == str(status).encode()


def test_garbage_on_the_socket_disturbs_nobody(engine, fake, client, path, x):
    engine.load(fake())
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        raw.sendall(bytes(range(256)) * 8 + b"\r\n\r\n")
        raw.recv(1000)
    assert client.infer("team/fake", x)


def test_a_flood_of_connections_is_refused_in_words_and_passes(engine, fake, client, path, x, wait_until):
    engine.load(fake())
    assert client.infer("team/fake", x)
    idle = []
    for _ in range(MAX_CONNECTIONS - 1):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        connection.sendall(b"GET /v2 HTTP/1.1\r\n\r\n")
        connection.recv(1000)
        idle.append(connection)
    with socket.socket(socket.AF_UNIX) as one_more:
        one_more.connect(str(path))
        answer = one_more.recv(1000)
        assert b" 503 " in answer
        assert b"HTTP_TOO_MANY_CONNECTIONS" in answer
    assert client.infer("team/fake", x)
    for connection in idle:
        connection.close()

    def is_served() -> bool:
        with Client(path) as another:
            return another.ready()

    wait_until(is_served, "a place to be free again")


def test_clients_on_many_threads_are_all_answered(engine, fake, path, server):
    engine.load(fake())
    answers: list[float] = []

    def use(value: float) -> None:
        with Client(path) as client:
            for _ in range(20):
                answer = client.infer("team/fake", {"x": np.full((1, 4), value, np.float32)})
                answers.append(float(answer.outputs["y"][0, 0]) - value)

    threads = [threading.Thread(target=use, args=(number / 10,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 120
    assert max(map(abs, answers)) < 1e-6


def test_only_owner_and_group_may_use_the_socket(server, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_who_connects_is_logged(client, caplog):
    with caplog.at_level(logging.INFO, logger="agent.inference.serve"):
        client.models()
    assert f"pid {os.getpid()}, uid {os.getuid()}" in caplog.text


def test_a_second_agent_on_the_same_socket_is_refused(engine, server, path):
    with pytest.raises(SocketRefused) as refused:
        LocalServer(engine, path)
    assert refused.value.code == "SOCKET_IN_USE"


def test_a_socket_left_by_a_killed_agent_is_replaced(engine, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = LocalServer(engine, path)
    server.start()
    with Client(path) as client:
        assert client.models() == []
    server.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("where", "code"), [("x" * 120, "SOCKET_PATH_TOO_LONG"), ("missing/agent.sock", "SOCKET_REFUSED")]
)
def test_a_place_where_no_socket_can_be_is_refused(engine, tmp_path, where, code):
    with pytest.raises(SocketRefused) as refused:
        LocalServer(engine, tmp_path / where)
    assert refused.value.code == code


def test_what_is_not_the_agent_is_not_mistaken_for_it(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(path) as client, pytest.raises(DaemonUnreachable, match="not the agent"):
            client.metadata("team/fake")
        thread.join()
