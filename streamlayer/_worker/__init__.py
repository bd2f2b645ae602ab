"""Workers: handlers, and the processes that run them. ``app.App`` is the door."""
