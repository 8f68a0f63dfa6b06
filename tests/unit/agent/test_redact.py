"""What must not leave the device does not, and the words around it stay."""

import base64
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.randomness import is_random
from agent.redact import REMOVED, masked, redact, secrets_in, secrets_of

KEY = "\n".join(
    ["-----BEGIN EC PRIVATE KEY-----", *["MHcCAQEEIBkg4LVWM9nuwNSk3yByxZpYRTBnVFXm" + "AoGCCqGSM49AwEH"] * 3]
)
END = "-----END EC PRIVATE KEY-----"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"before\n{KEY}\n{END}\nafter", f"before\n{REMOVED}\nafter"),
        (f"before\n{KEY}", f"before\n{REMOVED}"),
        ("MHcCAQEEIBkg4LVWM9nuwNSk3yByxZpYRTBnVFXm\n" * 3 + END + "\nafter", f"{REMOVED}\nafter"),
        ("proxy http://bob:s3cr@t!@proxy.example:3128 refused", f"proxy http://{REMOVED}@proxy.example:3128 refused"),
        ("curl -x bob:hunter2@proxy:3128 -v", f"curl -x {REMOVED}@proxy:3128 -v"),
        ("Proxy-Authorization: Basic dXNlcjpwYXNz", f"Proxy-Authorization: {REMOVED}"),
        ("got authorization=Bearer abcdef and more", f"got authorization={REMOVED}"),
        ("sent Bearer abcdefgh12 to it", f"sent Bearer {REMOVED} to it"),
        ("sent Basic dXNlcjpwYXNz== to it", f"sent Basic {REMOVED} to it"),
        ("Cookie: session=1; other=2\nnext", f"Cookie: {REMOVED}\nnext"),
        (
            "GET https://b.example/blobs/ab?X-Amz-Date=20261124&X-Amz-Signature=0a1b2c#part",
            f"GET https://b.example/blobs/ab?X-Amz-Date={REMOVED}&X-Amz-Signature={REMOVED}#part",
        ),
        ("GET /blobs/ab?sv=2022&sig=a%2Fb%3D&n=1", f"GET /blobs/ab?sv=2022&sig={REMOVED}&n=1"),
        ("https://b.example/?abcdef", f"https://b.example/?{REMOVED}"),
        ("password: hunter", f"password: {REMOVED}"),
        ("PASSWORD=hunter rest", f"PASSWORD={REMOVED} rest"),
        ("'passphrase': 'two words', x", f"'passphrase': '{REMOVED}', x"),
        ('{"device_token": "x1", "n": 2}', f'{{"device_token": "{REMOVED}", "n": 2}}'),
        ("--proxy-password hunter --dir /x", f"--proxy-password {REMOVED} --dir /x"),
        ("AWS_SECRET_ACCESS_KEY=abc/def", f"AWS_SECRET_ACCESS_KEY={REMOVED}"),
        ("enrol with wge_0123456789abcdefghij please", f"enrol with {REMOVED} please"),
        ("jwt eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln rest", f"jwt {REMOVED} rest"),
        ("id AKIAIOSFODNN7EXAMPLE rest", f"id {REMOVED} rest"),
        ("found bm90IGEgcmVhbCBrZXkgYnV0IGxvbmcgZW5vdWdoIQ9Zx== there", f"found {REMOVED} there"),
    ],
)
def test_a_secret_is_taken_out(text, kept):
    assert redact(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24 03:00:01,123 WARNING agent.runner.link: no connection to the broker by mqtt: timed out",
        "ENROL_TOKEN_USED: The token was used already.",
        "token: The server does not know it.",
        "secretary and tokens of appreciation; 3 cookies were eaten",
        "tokens=12, max_tokens: 4096",
        "basic authentication works here; basic Authentication, too",
        f"bundle {DIGEST} of vision/digits, commit 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
        f"sha256:{DIGEST}",
        "boot 550e8400-e29b-41d4-a716-446655440000, session 12345678901234567890123456789012345",
        "/opt/Wavegate2/lib/python3.11/site-packages/onnxruntime/capi/onnxruntime_pybind11_state.so",
        "InferenceSessionInitializationException in agent.inference.backends.onnxruntime_backend_loader",
        "vision/digits-Large-v2-quantised-int8-perchannel-2026-11-24",
        "platform-3f980000.usb-usb-0_1_1_3_1_0-video-index0 and nvme0n1p2-Samsung_SSD_970_EVO_Plus_500GB",
        "connect to 127.0.0.1:8883, [::1]:8443 and mqtt://broker.example:1883/x",
        "https://server.example:8443/v1/device/desired answered 503",
        "GET /v1/releases?limit=50&cursor=abc",
        "CONDITION_WINDOW DOWNLOAD_CAPTIVE_PORTAL TRUST_UNSIGNED_DIRECTOR_AND_MORE_WORDS",
        "[    1.234567] EXT4-fs error (device mmcblk0p2): ext4_find_entry:1455: inode #2: comm python3",
    ],
)
def test_harmless_words_are_kept(text):
    assert redact(text) == text


def test_what_is_known_by_value_goes_whatever_its_form():
    text = "a=p@ss/word b=p%40ss%2Fword c=p@ss/words"
    assert redact(text, {"p@ss/word", "a=b"}) == f"a={REMOVED} b={REMOVED} c={REMOVED}s"
    assert redact("abc abc", {"abc"}) == "abc abc", "too short: it would take letters out of every word"


@pytest.mark.parametrize(
    ("alphabet", "length", "least"),
    [
        (string.ascii_letters + string.digits + "-_", 43, 0.99),
        (string.ascii_letters + string.digits + "+/", 44, 0.99),
        (string.ascii_letters + string.digits, 32, 0.98),
        (string.ascii_lowercase + string.digits, 40, 0.93),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 40, 0.98),
    ],
)
def test_words_drawn_at_random_are_found(alphabet, length, least):
    draw = random.Random(20261124)
    words = ["".join(draw.choices(alphabet, k=length)) for _ in range(1000)]
    assert sum(map(is_random, words)) >= least * len(words)


@pytest.mark.parametrize("length", [32, 40, 64, 96, 128])
def test_a_digest_is_no_key(length):
    assert not is_random(DIGEST[:1] * length)
    assert not is_random((DIGEST * 2)[:length])


def test_values_are_masked_under_a_name_that_means_a_secret():
    told = {
        "proxy": "http://bob:hunter2@proxy:3128",
        "labels": {"site": "north", "wifi_password": "x"},
        "tokens": {"first": "abc", "n": 5, "on": True, "none": None},
        "list": [{"api_key": 7}, f"see {KEY}\n{END}"],
        "count": 3,
        "http://u:hunter22@h/": 1.5,
    }
    assert masked(told, {"north"}) == {
        "proxy": f"http://{REMOVED}@proxy:3128",
        "labels": {"site": REMOVED, "wifi_password": REMOVED},
        "tokens": {"first": REMOVED, "n": REMOVED, "on": True, "none": None},
        "list": [{"api_key": REMOVED}, f"see {REMOVED}"],
        "count": 3,
        f"http://{REMOVED}@h/": 1.5,
    }


def test_secrets_are_found_by_name_and_in_addresses():
    named = {
        "HTTPS_PROXY": "http://bob:p%40ss@proxy:3128",
        "DB_PASSWORD": "correct-horse-1",
        "HOME": "/home/pi",
        "a": {"b_token": ["Tok3n-x"]},
        "SECRET": "abc",
        "token_name": "readable",
    }
    assert secrets_of(named) == {"bob:p%40ss", "p%40ss", "p@ss", "correct-horse-1", "Tok3n-x"}
    assert secrets_in("proxy:3128") == secrets_in("") == set()


@given(st.text(max_size=400), st.sets(st.text(min_size=8, max_size=20, alphabet="abcXYZ019"), max_size=2))
def test_no_known_secret_is_left_and_redacting_twice_changes_nothing_more(text, secrets):
    once = redact(text + "".join(f" {one} " for one in secrets), secrets)
    assert not any(one in once for one in secrets)
    assert redact(once, secrets) == once


@pytest.mark.parametrize(
    "evil",
    [
        "a." * 50_000,
        "://" + "a" * 100_000,
        "x:" * 50_000,
        "-----END " * 12_000,
        ("A" * 76 + "\n") * 1500,
        "-----BEGIN A-----" * 6_000,
        "token" * 20_000,
        "https://a?" + "&" * 100_000,
        base64.b64encode(b"\0" * 75_000).decode(),
    ],
)
@pytest.mark.timeout(60)
def test_the_work_is_linear_whatever_was_logged(evil):
    """Each takes about half a second; with a pattern that looks back at everything, many minutes."""
    assert len(redact(evil * 5)) <= 5 * len(evil) * len(REMOVED)
