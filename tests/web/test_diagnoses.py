"""Support bundles on the pages of a rollout and of a device."""

from __future__ import annotations

import hashlib

import httpx
import pytest

from bundles.wire import commands as wire
from bundles.wire.commands import CommandResult
from control_plane.services import answers, diagnoses


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_the_pages_lead_to_the_support_bundles_of_what_failed(server):
    fleet, rollout = server.fleet, server.fleet.latest
    with fleet.db.write() as session:
        for device, failure in (("cam-001", "golden_mismatch"), ("cam-002", "<b>made up</b>")):
            diagnoses.ask_about_failure(
                session, rollout=rollout, wave=0, device=device, failure=failure, most=3, now_ms=fleet.now
            )
    asked = {one.device: one.command for one in fleet.show(rollout).diagnoses}
    command, content = asked["cam-001"], b"a support bundle"
    with fleet.db.write() as session:
        answers.take_bundle(session, "cam-001", command, content, fleet.now)
        data = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        payload = wire.encode(CommandResult(command, True, data=data))
        answers.take_in(session, "cam-001", wire.result_leaf(command), payload, fleet.now)

    with httpx.Client(base_url=server.url, cookies={"wavegate_session": server.tokens["otto"]}, timeout=30) as client:
        page = client.get(f"/rollouts/{rollout}").text
        assert 'data-diagnoses="2"' in page
        assert f"wavegate device diagnosis cam-001 {command} --show" in page
        assert asked["cam-002"] not in page, "nothing has come from it yet"
        assert "<b>made up" not in page
        assert "&lt;b&gt;made up" in page
        page = client.get("/devices/cam-001").text
        assert f"wavegate device diagnosis cam-001 {command} --show" in page
        assert "by system:rollout" in page
        assert "wavegate device diagnose cam-003" in client.get("/devices/cam-003").text
