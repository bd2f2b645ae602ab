"""A fork while records that were placed anew wait to be sent: the parent sends them, and the child is told so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import redis

from streamlayer.embedded import Server

PROGRAM = """
import os, sys
import redis
from streamlayer import Admin, Consumer, IllegalStateError, NewTopic, Producer
url = sys.argv[1]
keys = [b"key%d" % i for i in range(20)]
plain = redis.Redis.from_url(url)
with Admin(url=url) as admin, Producer(url=url) as producer:
    admin.create_topics([NewTopic("t", 2)])
    producer.send_and_wait("t", b"0", keys[0])
    admin.create_partitions({"t": 5})
    plain.config_set("maxmemory", "1mb")
    futures = [producer.send("t", b"1", key) for key in keys]
    producer.send("t", b"2", partition=4)  # has the topic read again, and the others moved
    assert all(future.batch.moved is not None for future in futures)
    assert not any(future.done() for future in futures)
    pid = os.fork()
    if pid == 0:
        try:
            print("child:", *{str(future.exception(1000)) for future in futures}, flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    plain.config_set("maxmemory", "0")
    producer.flush()
    print("parent:", {future.exception() for future in futures})
with Consumer("t", url=url) as consumer:
    print("stored:", len(list(consumer.read_to_end())))
"""


def test_a_forks_child_is_told_of_records_that_were_moved(any_server: Server) -> None:
    """The futures it has are of batches that no longer exist; what took their records in is the parent's."""
    with redis.Redis.from_url(any_server.url) as client:
        client.flushall()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, any_server.url],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "child: the record was sent before a fork, by the parent: its future is the parent's\n" in done.stdout
    assert "parent: {None}\nstored: 22\n" in done.stdout, done.stdout + done.stderr
