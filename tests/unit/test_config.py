"""Options: their limits, what must agree, Kafka's names explained, and the nearest one named."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer._config import (
    KAFKA_OPTIONS,
    LARGEST_SEGMENT,
    MIB,
    SMALLEST_SEGMENT,
    ConsumerOptions,
    ProducerOptions,
    TopicConfig,
    altered_config,
    checked,
    refuse_unknown,
    topic_config,
)
from streamlayer.errors import ConfigurationError


@pytest.mark.parametrize("kind", [ProducerOptions, ConsumerOptions, TopicConfig])
def test_the_defaults_agree_with_each_other(kind: type[Any]) -> None:
    """Nobody has to set anything."""
    checked(kind, {})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ProducerOptions, {"acks": 2}),
        (ProducerOptions, {"acks": "1"}),
        (ProducerOptions, {"linger_ms": -1}),
        (ProducerOptions, {"linger_ms": 60_001}),
        (ProducerOptions, {"linger_ms": 1.5}),
        (ProducerOptions, {"linger_ms": "5"}),
        (ProducerOptions, {"batch_size": 0}),
        (ProducerOptions, {"batch_size": 16 * MIB + 1}),
        (ProducerOptions, {"compression_type": "lz4"}),
        (ProducerOptions, {"max_request_size": 0}),
        (ProducerOptions, {"buffer_memory": 65_535}),
        (ProducerOptions, {"max_block_ms": -1}),
        (ProducerOptions, {"delivery_timeout_ms": 3_600_001}),
        (ProducerOptions, {"num_partitions": 0}),
        (ProducerOptions, {"num_partitions": True}),
        (ConsumerOptions, {"auto_offset_reset": "first"}),
        (ConsumerOptions, {"max_poll_records": 0}),
        (ConsumerOptions, {"fetch_max_wait_ms": -1}),
        (ConsumerOptions, {"fetch_max_bytes": 0}),
        (ConsumerOptions, {"consumer_timeout_ms": -1}),
        (TopicConfig, {"retention_ms": -2}),
        (TopicConfig, {"retention_bytes": -2}),
        (TopicConfig, {"segment_bytes": 1024}),
        (TopicConfig, {"segment_bytes": 65 * MIB}),
        (TopicConfig, {"max_message_bytes": 1023}),
        (TopicConfig, {"partitioner": "murmur3"}),
        (TopicConfig, {"message_timestamp_type": "AppendTime"}),
    ],
)
def test_values_out_of_their_limits_are_refused(kind: type[Any], options: dict[str, Any]) -> None:
    """The error names the option and the value; nothing is rounded or converted."""
    ((name, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"^{name}={value!r} must "):
        checked(kind, options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"linger_ms": 50, "delivery_timeout_ms": 50}, "delivery_timeout_ms=50 must be more than linger_ms=50"),
        ({"max_request_size": 2 * MIB, "buffer_memory": MIB}, "must fit into buffer_memory=1048576"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    """The error names both."""
    with pytest.raises(ConfigurationError, match=words):
        checked(ProducerOptions, options)


def test_acks_0_alone_is_no_contradiction() -> None:
    """Who asks for no answers did not ask for idempotence: its default gives way."""
    assert checked(ProducerOptions, {"acks": 0}).acks == 0
    assert checked(ProducerOptions, {"acks": 0, "enable_idempotence": False}).acks == 0


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Two mistakes, one error."""
    with pytest.raises(ConfigurationError, match=r"linger_ms=-1.*batch_size=0"):
        checked(ProducerOptions, {"linger_ms": -1, "batch_size": 0})


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, LARGEST_SEGMENT),
        ({"retention_bytes": -1}, LARGEST_SEGMENT),
        ({"retention_bytes": 1000}, SMALLEST_SEGMENT),
        ({"retention_bytes": 16 * 20_000}, 20_000),
        ({"retention_bytes": 1 << 40}, LARGEST_SEGMENT),
        ({"segment_bytes": 64 * MIB}, 64 * MIB),
        ({"segment_bytes": 16 * 1024}, 16 * 1024),
    ],
)
def test_a_segment_is_a_sixteenth_of_what_is_kept_within_limits(config: dict[str, int], limit: int) -> None:
    """`retention_bytes` / 16, within the smallest and the largest segment, unless it is set."""
    assert TopicConfig(**config).segment_limit == limit


def test_kafkas_dotted_names_are_taken() -> None:
    """A topic's settings may be copied from Kafka's tools."""
    config = topic_config({"retention.ms": 1000, "max.message.bytes": 2048, "segment_bytes": 20_000})
    assert (config.retention_ms, config.max_message_bytes, config.segment_bytes) == (1000, 2048, 20_000)
    assert topic_config(None) == TopicConfig()
    assert topic_config(config) is config


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("retention.msec", "no setting 'retention_msec': did you mean 'retention_ms'"),
        ("zzzz", "no setting 'zzzz'$"),
    ],
)
def test_an_unknown_setting_names_the_nearest(name: str, words: str) -> None:
    """A typing error is told from a setting that does not exist."""
    with pytest.raises(ConfigurationError, match=words):
        topic_config({name: 1})


def test_an_alteration_changes_what_it_names() -> None:
    """By either name, or by what is set in a TopicConfig; the rest stays, and what was not set counts as not set."""
    current = TopicConfig(retention_ms=1000, segment_bytes=20_000)
    for changes in ({"retention.ms": 5}, {"retention_ms": 5}, TopicConfig(retention_ms=5)):
        altered = altered_config(current, changes)
        assert altered.model_dump(exclude_unset=True) == {"retention_ms": 5, "segment_bytes": 20_000}
    assert altered_config(current, {}) == altered_config(current, TopicConfig()) == current


def test_none_in_an_alteration_gives_back_the_default() -> None:
    """The setting counts as not set again; saying the default's value sets it."""
    current = TopicConfig(retention_ms=1000, segment_bytes=20_000)
    assert altered_config(current, {"retention.ms": None}).model_fields_set == {"segment_bytes"}
    assert altered_config(current, {"segment_bytes": None}).model_fields_set == {"retention_ms"}
    assert altered_config(TopicConfig(), {"retention_ms": 604_800_000}).model_fields_set == {"retention_ms"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partitioner": "murmur2"}, r"partitioner is decided when a topic is created \('crc32'\).*'murmur2'"),
        ({"message.timestamp.type": "LogAppendTime"}, "message_timestamp_type is decided .*'LogAppendTime'"),
        (TopicConfig(message_timestamp_type="LogAppendTime"), "message_timestamp_type is decided"),
        ({"retention_ms": -7}, "retention_ms=-7"),
        ({"retentionms": 7}, "did you mean 'retention_ms'"),
    ],
)
def test_an_alteration_that_cannot_be_is_told(changes: Any, words: str) -> None:
    """What was decided at creation says why; the rest is told as at creation."""
    with pytest.raises(ConfigurationError, match=words):
        altered_config(TopicConfig(), changes)
    assert altered_config(TopicConfig(), {"partitioner": "crc32", "message_timestamp_type": None}) is not None


@pytest.mark.parametrize("name", sorted(KAFKA_OPTIONS))
def test_kafkas_own_options_are_explained(name: str) -> None:
    """Who comes from Kafka is told what to do instead, and no option here is explained away."""
    with pytest.raises(TypeError, match="Producer has no option") as caught:
        refuse_unknown("Producer", {name: 1}, [])
    assert KAFKA_OPTIONS[name] in str(caught.value)
    assert name not in {*ConsumerOptions.model_fields, *TopicConfig.model_fields} - {"partitioner"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lingerms", "no option 'lingerms': did you mean 'linger_ms'"),
        ("batchsize", "did you mean 'batch_size'"),
        ("qqqq", r"see help\(Producer\)"),
    ],
)
def test_an_unknown_option_names_the_nearest(name: str, words: str) -> None:
    """As Python does for names of its own."""
    with pytest.raises(TypeError, match=words):
        refuse_unknown("Producer", {name: 1}, ProducerOptions.model_fields)


def test_a_replicas_disk_without_a_replica_makes_no_sense() -> None:
    """``flush='replicas'`` counts replicas by ``min_insync_replicas``, in which the primary is one."""
    with pytest.raises(ConfigurationError, match="min_insync_replicas to 2"):
        topic_config({"flush": "replicas"})
    assert topic_config({"flush": "replicas", "min.insync.replicas": 3}).flush_level == 2
