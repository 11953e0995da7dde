"""The grammar of names: every key survives a URL, everything outside the grammar is refused."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.keys import check_bucket_name, check_key, check_node_name, decode_key, encode_key
from discloud.errors import BadBucketName, BadKey, Invalid

ALLOWED = st.characters(exclude_categories=["Cs"], min_codepoint=0x20)
KEYS = st.text(ALLOWED, min_size=1, max_size=256) | st.lists(
    st.sampled_from([".", "..", "...", "", "a", "%", "%2F", "+", " ", "é", "~", "?", "#"]),
    min_size=2,
    max_size=20,
).map("/".join)


@given(KEYS)
def test_every_key_survives_a_url(text: str) -> None:
    url = encode_key(check_key(text))
    assert url.isascii()
    assert not set(url) & set(" ?#+")
    assert not {".", ".."} & set(url.split("/"))
    assert decode_key(url) == text


@given(KEYS)
def test_any_correct_encoding_is_read(text: str) -> None:
    assert decode_key(quote(text, safe="/+")) == text
    assert decode_key("".join(f"%{byte:02x}" for byte in text.encode())) == text


def test_a_plus_is_a_plus_and_decoding_happens_once() -> None:
    assert decode_key("a+b%20c%2541") == "a+b c%41"


def test_unescaped_bytes_are_utf8() -> None:
    assert decode_key("é") == "é"
    assert decode_key("\udcc3\udca9") == "é"


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "%",
        "a%2",
        "%zz",
        "%ff",
        "%c3",
        "%ed%a0%80",
        "\udcff",
        "%00",
        "a%1Fb",
        "%0a",
        "%+1",
        "%２0",
    ],
)
def test_what_is_no_key_is_refused(raw: str) -> None:
    with pytest.raises(BadKey):
        decode_key(raw)


@pytest.mark.parametrize("code", range(0x20))
def test_controls_are_refused(code: int) -> None:
    with pytest.raises(BadKey, match=f"U\\+{code:04X}"):
        check_key(f"a{chr(code)}")


def test_length_is_counted_in_bytes() -> None:
    assert check_key("é" * 512)
    assert check_key("\x7f")
    for text in ("a" * 1025, "é" * 513, "\ud800", ""):
        with pytest.raises(BadKey):
            check_key(text)


@pytest.mark.parametrize("name", ["abc", "a" * 63, "a.b-c", "0a0", "1.2.3", "1.2.3.4.5", "256.1.1.x"])
def test_bucket_names(name: str) -> None:
    assert check_bucket_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ab",
        "a" * 64,
        "Abc",
        "-ab",
        "ab-",
        ".ab",
        "ab.",
        "a..b",
        "a_b",
        "a b",
        "1.2.3.4",
        "abc\n",
        "äbc",
        "１２３",
    ],
)
def test_bad_bucket_names(name: str) -> None:
    with pytest.raises(BadBucketName):
        check_bucket_name(name)


@pytest.mark.parametrize("name", ["n", "node1", "Node-1.example.org", "a_b", "n" * 63])
def test_node_names(name: str) -> None:
    assert check_node_name(name) == name


@pytest.mark.parametrize("name", ["", "self", "SELF", "all", "a,b", "-a", "a-", "n" * 64, "a b", "a\n", "é"])
def test_bad_node_names(name: str) -> None:
    with pytest.raises(Invalid):
        check_node_name(name)
