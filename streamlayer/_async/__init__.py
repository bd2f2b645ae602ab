"""The async shell: it waits and sends, and decides nothing that the core can decide."""
