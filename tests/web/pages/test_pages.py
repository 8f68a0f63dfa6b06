"""The pages as people meet them, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect
from sqlmodel import select

from control_plane.db.queries.decisions import list_decisions
from control_plane.db.tables import OperatorToken
from control_plane.services import revocations, rollouts, tokens
from control_plane.services.revocations import Forbidden

on_a_running_rollout = pytest.mark.parametrize("server", ["running"], indirect=True)


def test_a_wrong_token_is_refused_and_a_good_one_lets_in(visit):
    page = visit.page
    visit.forgiven.append("401")
    visit.open("/")
    expect(page).to_have_url(re.compile("/sign-in"))
    page.get_by_label("Operator token").fill("wgo_" + "x" * 43)
    page.get_by_label("Operator token").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not known")
    page.get_by_label("Operator token").fill(visit.server.tokens["vera"])
    page.get_by_label("Operator token").press("Enter")
    expect(page.get_by_role("heading", name="Rollouts")).to_be_visible()
    expect(page.locator(".person")).to_have_text("vera viewer")
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/sign-in"))
    visit.open("/devices")
    expect(page).to_have_url(re.compile(r"/sign-in\?next=%2Fdevices"))


def test_signing_in_leads_back_to_the_page_that_was_asked_for(visit):
    visit.open("/devices?hardware=cam-a")
    visit.page.get_by_label("Operator token").fill(visit.server.tokens["vera"])
    visit.page.get_by_label("Operator token").press("Enter")
    expect(visit.page).to_have_url(visit.server.url + "/devices?hardware=cam-a")


def test_the_rollouts_page_shows_what_is_in_the_database_and_leads_to_it(visit):
    fleet = visit.server.fleet
    visit.sign_in("vera")
    expect(visit.page.get_by_text("There is no rollout yet.")).to_be_visible()
    rollout = fleet.create(fleet.release("1.0.0", 1))
    row = visit.page.locator(f"[data-rollout={rollout}]")
    expect(row).to_contain_text("vision/digits 1.0.0")
    expect(row).to_contain_text("pending approval")
    row.get_by_role("link").click()
    expect(visit.page.get_by_role("heading", level=1)).to_contain_text("vision/digits 1.0.0")
    expect(visit.page.locator(".headline")).to_contain_text("waits for 1 more approval")
    expect(visit.page.locator("[data-wave]")).to_have_count(2)


def test_waves_move_on_the_page_without_a_reload(visit):
    fleet = visit.server.fleet
    rollout = fleet.start(fleet.release("1.0.0", 1))
    visit.sign_in("vera")
    visit.open(f"/rollouts/{rollout}")
    visit.wait_live()
    wave = visit.page.locator("[data-wave='1']")
    expect(wave).to_have_attribute("data-phase", "offering")
    visit.page.evaluate("window.notReloaded = true")
    fleet.step(3)
    expect(wave.locator("[data-count]")).not_to_have_attribute("data-count", "offered")
    fleet.run_until(rollout, lambda detail: detail.waves[0].phase == "soaking" and detail.waves[0].gates)
    expect(wave).to_have_attribute("data-phase", "soaking")
    expect(wave.locator("[data-count=confirmed]")).to_have_text("17")
    expect(wave.get_by_role("img")).to_have_attribute("aria-label", "Wave 1: 17 confirmed")
    expect(wave.locator("[data-gate=install]")).to_contain_text("0 of 17 resolved devices failed")
    fleet.run_until(rollout, lambda detail: detail.rollout.phase == "completed")
    expect(visit.page.locator(".standing")).to_have_attribute("data-phase", "completed")
    assert visit.page.evaluate("window.notReloaded")


@on_a_running_rollout
def test_gates_show_their_evidence_in_numbers(visit):
    fleet = visit.server.fleet
    rollout = fleet.latest
    visit.sign_in("vera")
    visit.open(f"/rollouts/{rollout}")
    gates = {gate.gate: gate for gate in fleet.show(rollout).waves[0].gates}
    assert "output" in gates
    for name, gate in gates.items():
        row = visit.page.locator(f"[data-wave='1'] [data-gate={name}]")
        expect(row).to_have_attribute("data-verdict", gate.verdict)
        expect(row).to_contain_text(gate.sentence)
        expect(row.locator(".fact")).to_have_count(len(gate.numbers))


@on_a_running_rollout
def test_a_rollout_is_paused_from_the_keyboard_after_a_confirmation(visit):
    fleet, page = visit.server.fleet, visit.page
    rollout = fleet.latest
    visit.sign_in("otto")
    visit.open(f"/rollouts/{rollout}")
    visit.wait_live()
    page.locator("#main").focus()
    while page.evaluate("document.activeElement.id") != "verb-pause":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "the button is out of the keyboard's reach"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Pause: vision/digits 1.1.0?")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#verb-pause")).to_be_focused()
    assert fleet.phase(rollout) == "running", "asking is not doing"
    page.keyboard.press("Enter")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    page.keyboard.type("the hall is being cleaned")
    page.keyboard.press("Enter")
    expect(page.locator(".standing")).to_have_attribute("data-phase", "paused")
    expect(page.locator(".headline")).to_contain_text("the hall is being cleaned")
    expect(page.locator("#verb-resume")).to_be_visible()
    with fleet.db.read() as session:
        actors = [row.actor for row in list_decisions(session, subject=f"rollout:{rollout}")[0] if row.kind == "audit"]
    assert actors[0] == "otto"


@on_a_running_rollout
def test_the_dialog_stays_open_while_the_page_behind_it_moves(visit):
    fleet, page = visit.server.fleet, visit.page
    rollout = fleet.latest
    visit.sign_in("otto")
    visit.open(f"/rollouts/{rollout}")
    visit.wait_live()
    page.locator("#verb-rollback").click()
    reason = page.get_by_role("dialog").get_by_label("Reason")
    reason.fill("halfway through a sen")
    revision = page.locator(".standing").get_attribute("data-revision")
    fleet.run_until(rollout, lambda detail: detail.waves[0].phase == "promoted")
    expect(page.locator(".standing")).not_to_have_attribute("data-revision", revision)
    expect(reason).to_have_value("halfway through a sen")
    expect(reason).to_be_focused()
    # The wave has moved on since: what was confirmed is not what would be done.
    visit.forgiven.append("412")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("[data-problem=VERSION_CHANGED]")).to_be_visible()
    assert fleet.phase(rollout) == "running"


@on_a_running_rollout
def test_a_roll_back_is_confirmed_and_seen_to_its_end(visit):
    fleet, page = visit.server.fleet, visit.page
    rollout = fleet.latest
    visit.sign_in("otto")
    visit.open(f"/rollouts/{rollout}")
    page.locator("#verb-rollback").click()
    expect(page.get_by_role("dialog")).to_contain_text("17 devices that took the offer are asked back")
    page.get_by_role("dialog").get_by_label("Reason").fill("wrong release")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("[data-halt=operator]")).to_contain_text("Halted in wave 1 by otto")
    visit.wait_live()
    fleet.run_until(rollout, lambda detail: detail.rollout.phase == "rolled_back")
    expect(page.locator("[data-wave='1'] [data-count=rolled_back]")).to_have_text("17")
    expect(page.locator("[id^=verb-]")).to_have_count(0)


@on_a_running_rollout
def test_a_bad_release_shows_why_it_was_halted_and_which_devices_it_harmed(visit):
    fleet, page = visit.server.fleet, visit.page
    fleet.run_until(fleet.latest, lambda detail: detail.rollout.phase == "completed")
    rollout = fleet.start(fleet.release("1.2.0", 3, is_bad=True))
    visit.sign_in("vera")
    visit.open(f"/rollouts/{rollout}")
    visit.wait_live()
    fleet.run_until(rollout, lambda detail: detail.rollout.phase == "rolled_back")
    harmed = fleet.show(rollout).waves[0].failed
    assert harmed
    expect(page.locator("[data-halt=install_cusum]")).to_contain_text("Halted in wave 1 by gate install cusum")
    wave = page.locator("[data-wave='1']")
    expect(wave.locator("[data-count=rolled_back]")).to_have_text("17")
    wave.locator(".legend a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Devices of this rollout")
    page.locator("[data-device] a").first.click()
    expect(page.locator("[data-model='vision/digits']")).to_contain_text("1.1.0")
    expect(page.locator("#region-events")).to_contain_text("golden_mismatch")


@on_a_running_rollout
def test_a_viewer_is_offered_no_verb_and_may_do_none(visit):
    fleet = visit.server.fleet
    rollout = fleet.latest
    visit.sign_in("vera")
    visit.open(f"/rollouts/{rollout}")
    visit.wait_live()
    expect(visit.page.locator("[id^=verb-]")).to_have_count(0)
    visit.forgiven.append("403")
    visit.open(f"/rollouts/{rollout}/pause")
    expect(visit.page.locator("[data-problem=ROLE_REQUIRED]")).to_be_visible()


def test_whoever_created_a_rollout_is_not_offered_its_approval(visit):
    fleet = visit.server.fleet
    rollout = fleet.create(fleet.release("1.0.0", 1))
    visit.sign_in("ada")
    visit.open(f"/rollouts/{rollout}")
    expect(visit.page.locator("#verb-reject")).to_be_visible()
    expect(visit.page.locator("#verb-approve")).to_have_count(0)
    visit.page.get_by_role("button", name="Sign out").click()
    visit.sign_in("bob")
    visit.open(f"/rollouts/{rollout}")
    visit.page.locator("#verb-approve").click()
    expect(visit.page.get_by_role("dialog")).to_contain_text("wave 1, 17 devices, is offered the release")
    visit.page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(visit.page.locator(".standing")).to_have_attribute("data-phase", "running")


def test_another_teams_rollout_does_not_exist(visit):
    rollout = visit.server.fleet.create(visit.server.fleet.release("1.0.0", 1))
    visit.sign_in("sam")
    expect(visit.page.get_by_text("There is no rollout yet.")).to_be_visible()
    visit.forgiven.append("404")
    visit.open(f"/rollouts/{rollout}")
    expect(visit.page.locator("[data-problem=ROLLOUT_UNKNOWN]")).to_be_visible()


def test_devices_come_in_pages_and_by_filter(visit):
    fleet, page = visit.server.fleet, visit.page
    fleet.enrol(60)
    fleet.step(1)
    visit.sign_in("vera")
    visit.open("/devices")
    expect(page.locator("[data-device]")).to_have_count(50)
    expect(page.locator("[data-device=cam-000]")).to_contain_text("online")
    page.get_by_role("link", name="Next page").click()
    expect(page.locator("[data-device]")).to_have_count(10)
    expect(page.locator("[data-device=cam-059]")).to_be_visible()
    page.get_by_role("link", name="First page").click()
    expect(page.locator("[data-device]")).to_have_count(50)
    page.get_by_label("Cohort").fill("line-1")
    page.get_by_label("Cohort").press("Enter")
    expect(page.locator("[data-device]")).to_have_count(10)
    page.get_by_label("Hardware").fill("cam-a")
    page.get_by_label("Hardware").press("Enter")
    expect(page.locator("[data-device]")).to_have_count(5)
    page.locator("[data-device=cam-001]").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("cam-001")
    expect(page.locator("#region-twin")).to_contain_text("line-1")


def test_a_device_that_falls_silent_is_seen_to(visit):
    fleet = visit.server.fleet
    fleet.step()
    visit.sign_in("vera")
    visit.open("/devices/cam-000")
    visit.wait_live()
    expect(visit.page.locator("#region-twin")).to_contain_text("online")
    fleet.now += 60_000  # nothing happens: time alone makes it true
    expect(visit.page.locator("#region-twin")).to_contain_text("silent, heard of 60 s ago")


def test_an_alert_is_counted_in_the_header_and_acknowledged_on_its_page(visit):
    fleet, page = visit.server.fleet, visit.page
    visit.sign_in("otto")
    visit.wait_live()
    expect(page.locator("[data-alerts]")).to_have_text("none")
    fleet.alert()
    expect(page.locator("[data-alerts]")).to_have_text("1 open")
    page.locator("[data-alerts]").click()
    row = page.locator("[data-alert=drift]")
    expect(row).to_contain_text("image.brightness drifted in cohort line-1")
    row.get_by_role("button", name="Acknowledge").click()
    expect(row).to_have_attribute("data-state", "acknowledged")


def test_a_page_is_right_again_after_its_connection_was_lost(visit):
    fleet, page = visit.server.fleet, visit.page
    rollout = fleet.start(fleet.release("1.0.0", 1))
    visit.sign_in("vera")
    visit.open(f"/rollouts/{rollout}")
    visit.wait_live()
    visit.forgiven += ["ERR_INTERNET_DISCONNECTED", "htmx:sse:error", "network error", "Failed to fetch"]
    page.evaluate("htmx.find('#live')._htmx.sse.reader.cancel()")
    page.context.set_offline(True)
    expect(page.locator("#live-state")).to_have_attribute("data-live", "reconnecting")
    with fleet.db.write() as session:
        rollouts.pause(session, rollout, actor="otto", reason="", expected=None, now_ms=fleet.now)
    page.context.set_offline(False)
    visit.wait_live()
    expect(page.locator(".standing")).to_have_attribute("data-phase", "paused")


def test_revoking_a_token_ends_what_it_opened(visit):
    fleet = visit.server.fleet
    visit.sign_in("vera")
    visit.wait_live()
    with fleet.db.write() as session:
        (token,) = [one for one in tokens.list_tokens(session) if one.principal == "vera"]
        tokens.revoke(session, token.id, actor="test", now_ms=fleet.now)
    expect(visit.page).to_have_url(re.compile(r"/sign-in\?ended=1"))
    expect(visit.page.get_by_role("status")).to_contain_text("Your session has ended")


@on_a_running_rollout
def test_every_page_fits_a_narrow_window_and_names_its_controls(visit):
    fleet, page = visit.server.fleet, visit.page
    rollout = fleet.latest
    fleet.alert()
    visit.sign_in("otto")
    page.set_viewport_size({"width": 400, "height": 800})
    bundle = fleet.show(rollout).rollout.bundle_sha256
    for path in ("/rollouts", f"/rollouts/{rollout}", f"/rollouts/{rollout}/devices", "/devices", "/devices/cam-001",
                 "/alerts", "/trust", "/releases", f"/releases/{bundle}", f"/rollouts/{rollout}/abort"):  # fmt: skip
        visit.open(path)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{path} is {overflow} pixels too wide"
        for control in page.locator("button, input:not([type=hidden]), select, a").all():
            if control.is_visible():
                assert control.evaluate("e => (e.labels?.[0] ?? e).innerText.trim() || e.getAttribute('aria-label')")


@on_a_running_rollout
def test_bundles_say_where_they_come_from_and_that_nobody_reviewed_the_signature(visit):
    fleet, page = visit.server.fleet, visit.page
    parent = fleet.release("1.2.0", 3)
    child = fleet.release("1.3.0", 4, parent_sha256=parent, training_run="run-7", code_revision="4f2a9c1")
    visit.sign_in("vera")
    page.get_by_role("link", name="Bundles").click()
    expect(page.get_by_text("One person can sign: not reviewed.")).to_be_visible()
    page.locator(f"[data-release='{child}']").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("vision/digits 1.3.0")
    expect(page.get_by_text("run-7")).to_be_visible()
    expect(page.get_by_text("4f2a9c1")).to_be_visible()
    page.get_by_role("link", name="vision/digits 1.2.0").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("vision/digits 1.2.0")
    expect(page.get_by_text("Its publisher said nothing of it.")).to_be_visible()


@on_a_running_rollout
def test_a_revoked_bundle_is_marked_as_such(visit):
    fleet, page = visit.server.fleet, visit.page
    sha256 = fleet.release("1.2.0", 3)
    visit.sign_in("vera")
    visit.open(f"/releases/{sha256}")
    expect(page.get_by_text("revoked")).to_have_count(0)
    with fleet.db.write() as session:
        entry = {sha256: Forbidden("it labels <b>cats</b> as dogs", 1, fleet.now)}
        revocations.note(session, entry, fleet.now)
    expect(page.locator("[data-revoked]")).to_contain_text("it labels <b>cats</b> as dogs")
    visit.open("/releases")
    expect(page.locator(f"[data-release='{sha256}']")).to_contain_text("revoked")


def test_the_trust_page_shows_who_must_sign_and_what_to_renew(visit):
    fleet, page = visit.server.fleet, visit.page
    visit.sign_in("vera")
    page.get_by_role("link", name="Trust", exact=True).click()
    expect(page.locator("[data-role=root]")).to_contain_text("1 of 2")
    expect(page.get_by_text("One person can sign: not reviewed.")).to_be_visible()
    expect(page.locator("[data-expiring]")).to_have_count(0)
    with visit.server.fleet.db.write() as session:
        token = session.exec(select(OperatorToken).where(OperatorToken.principal == "vera")).one()
        token.expires_ms = fleet.now + 400 * 86_400_000
    fleet.now += 340 * 86_400_000
    expect(page.locator("[data-expiring=targets]")).to_contain_text("wavegate trust renew --role targets")
