"""Where the server is: URLs, namespaces, and what of an injected client's settings is not taken over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlayer._core.settings import Address, connection_options, namespace_of, parse_url
from streamlayer.errors import ConfigurationError, InvalidTopicError


@pytest.mark.parametrize(
    ("url", "plain", "namespace"),
    [
        ("redis://h:1/2", "redis://h:1/2", None),
        ("rediss://u:p%40@h", "rediss://u:p%40@h", None),
        ("valkey://h:1/0", "redis://h:1/0", None),
        ("valkeys://h", "rediss://h", None),
        ("redis://h?namespace=shop", "redis://h", "shop"),
        ("redis://h?namespace=shop&db=3", "redis://h?db=3", "shop"),
        ("unix:///tmp/a%20b.sock?db=1&namespace=x", "unix:///tmp/a%20b.sock?db=1", "x"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0", None),
    ],
)
def test_urls_become_redis_pys(url: str, plain: str, namespace: str | None) -> None:
    """Schemes are translated, the namespace taken out, all else stays."""
    assert parse_url(url) == Address(plain, namespace)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:6379", "must look like redis://"),
        ("", "must look like"),
        (7, "must look like"),
        (b"redis://h", "must look like"),
        ("http://h", "scheme 'http' is not known: use one of redis, rediss, unix, valkey, valkeys"),
        ("redis+cluster://h", "Redis Cluster is not supported by this version"),
        ("rediss+sentinel://h", "Redis Sentinel is not supported by this version"),
        ("redis+x://h", "scheme 'redis\\+x' is not known"),
        ("kafka+cluster://h", "is not known"),
        ("redis://h/abc", "is the database, a number"),
        ("redis://h:port/0", "host and port look like"),
        ("redis://[h/0", "host and port look like"),
        ("redis://h?ssl_ca_certs=/ca.pem", "ssl_ca_certs is for TLS, and url says redis://: use rediss://"),
    ],
)
def test_what_cannot_work_is_refused(url: object, words: str) -> None:
    """The error says what a URL looks like, or what is not there yet."""
    with pytest.raises(ConfigurationError, match=words):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis+x://user:secret@h", ":secret@h:6379/0", "redis://:secret#1@h", "redis://:secret/1@h", "redis://:secret?1@h",
        "redis://:secret[1@h", "redis://:12#secret@h", "redis://:12/secret@h", "redis://h:secret/0",
    ],
)  # fmt: skip
def test_a_password_is_in_no_error(url: str) -> None:
    """Messages end up in logs; and what stands behind an unquoted # or / is not dropped silently."""
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_argument_wins_over_the_url_and_both_over_the_default() -> None:
    """`namespace=`, else `?namespace=`, else `sl`; each by the rule of names."""
    address = parse_url("redis://h?namespace=shop")
    assert namespace_of("mine", address) == "mine"
    assert namespace_of(None, address) == "shop"
    assert namespace_of(None, parse_url("redis://h")) == "sl"
    assert namespace_of(None, None) == "sl"
    for wrong in ("", "a:b", "{x}"):
        with pytest.raises(InvalidTopicError, match="namespace"):
            namespace_of(wrong, address)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "host",
                "port",
                "db",
                "retry",
                "decode_responses",
                "protocol",
                "retry_on_error",
                "maint_notifications_config",
                "health_check_interval",
                "password",
            ]
        ),
        st.integers(),
    )
)
def test_what_would_decide_in_our_place_is_taken_out(options: dict[str, int]) -> None:
    """Retries off, bytes, RESP2, whatever the client had; where and who stays; the given mapping is left alone."""
    before = dict(options)
    ours = connection_options(options)
    assert options == before
    assert "retry" not in ours
    assert "maint_notifications_config" not in ours
    assert ours["decode_responses"] is False
    assert ours["retry_on_timeout"] is False
    assert ours["retry_on_error"] == []
    assert ours["protocol"] == 2
    for name in ("host", "port", "db", "password"):
        assert ours.get(name) == options.get(name)
