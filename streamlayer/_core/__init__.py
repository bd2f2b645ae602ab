"""The pure core: values and decisions. No redis, asyncio, threads, sockets or clock in here; the caller passes ``now``."""
