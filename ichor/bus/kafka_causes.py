"""What kafka-python logs of its connections, in place of its log. Makes no error of it: `ichor.bus.kafka_client` does."""

from __future__ import annotations

import logging


class Causes(logging.Handler):
    """Why the last connection failed: a client that cannot begin says only that it cannot, the cause goes to its log.

    That log tells of every attempt for as long as Kafka is away; nobody but this sees it.
    """

    def __init__(self, *, not_these: tuple[type[BaseException], ...]) -> None:
        super().__init__(logging.WARNING)
        self._not_these = not_these
        self.last: BaseException | None = None

    def listen(self) -> None:
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        logger = logging.getLogger("kafka.net.manager")
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        if self not in logger.handlers:
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        for one in record.args or ():
            if isinstance(one, BaseException) and not isinstance(one, self._not_these):
                self.last = one
