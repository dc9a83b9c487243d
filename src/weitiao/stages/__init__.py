"""The commands: one file each, with ``Config``, ``EXAMPLES`` and ``run(config) -> Iterator[Event]``."""
