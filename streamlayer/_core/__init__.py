"""The pure core: values and decisions. No redis, asyncio, threads, sockets or clock: the caller passes ``now``."""
