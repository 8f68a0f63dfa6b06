"""The OpenAPI document, read as a stranger would: schemathesis calls what it describes and compares the answers.

GETs with everything it can think of; the verbs as well, but within a smaller budget and without what ends the stream.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks

from control_plane.auth import Role

_CHECKED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def stranger(sqlite_api):
    api = sqlite_api
    api.enrol("cam-1", "cam-2", "cam-3")
    body = {
        "release": api.approved(), "selector": {"all": True}, "waves": [{"rest": True, "soak_s": 8}],
        "policy": {"holdout_pct": 0},
    }  # fmt: skip
    rollout = api.operator.post("/api/v1/rollouts", json=body).json()["id"]
    api.approver.post(f"/api/v1/rollouts/{rollout}/approve", headers={"If-Match": "*"})
    api.bearer = {"Authorization": f"Bearer {api.token('root', Role.ADMIN)}"}
    return api


def _paths(document: dict, method: str) -> list[str]:
    return sorted(path for path, item in document["paths"].items() if method in item and path != "/api/v1/events")


def test_every_answer_is_described(stranger):
    schema = schemathesis.openapi.from_asgi("/openapi.json", stranger.app)
    document = stranger.viewer.get("/openapi.json").json()
    for method in ("get", "post"):
        paths = _paths(document, method)
        assert paths
        for path in paths:
            _explore(schema[path][method.upper()], stranger)


def _explore(operation, api) -> None:
    called = 0

    @_CHECKED
    @given(case=operation.as_strategy())
    def run(case) -> None:
        nonlocal called
        called += 1
        # What a rollout may ask for is richer than a schema can say: a policy that contradicts itself is a 422 as well.
        excluded = [] if operation.method.upper() == "GET" else [checks.positive_data_acceptance]
        case.call_and_validate(headers=api.bearer, excluded_checks=excluded)

    run()
    assert called


def test_every_operation_documents_its_errors_and_an_answer(sqlite_api):
    document = sqlite_api.viewer.get("/openapi.json").json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if not path.startswith("/api/v1"):
                continue
            answers = operation["responses"]
            assert {"401", "403", "422"} <= set(answers), (method, path)
            for status, answer in answers.items():
                kinds = answer.get("content", {})
                expected = "application/problem+json" if int(status) >= 400 else None
                assert kinds, (method, path, status)
                assert expected is None or list(kinds) == [expected], (method, path, status)
                assert all(kind.get("schema") for kind in kinds.values()), (method, path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]
