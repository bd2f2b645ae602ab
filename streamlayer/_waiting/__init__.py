"""The only difference between the two colours: how to wait. ``aio`` and ``threads`` define the same names."""
