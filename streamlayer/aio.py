"""The same, for asyncio: ``Producer``, ``Consumer`` and ``Admin``, with the same names and arguments."""

from streamlayer._async.admin import Admin
from streamlayer._async.consumer import Consumer
from streamlayer._async.listener import ConsumerRebalanceListener
from streamlayer._async.producer import Producer
from streamlayer._waiting.aio import RecordFuture

__all__ = ["Admin", "Consumer", "ConsumerRebalanceListener", "Producer", "RecordFuture"]
