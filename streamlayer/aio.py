"""The same three, for asyncio: ``Producer``, ``Consumer`` and ``Admin``, with the same names and arguments."""

from streamlayer._async.admin import Admin as Admin
from streamlayer._async.producer import Producer as Producer

__all__ = ["Admin","Producer"]
