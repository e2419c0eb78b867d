"""Repeats requests that fail for a reason that may pass, with growing pauses, and counts them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from w2vlab.data.shards.remote.transport import FetchError, OutageError
from w2vlab.types import Seconds
from w2vlab.utils.checks import positive_from_environment
from w2vlab.utils.messages import count, duration

PATIENCE = "W2VLAB_FETCH_PATIENCE"
"""Environment variable: seconds without progress after which a file is given up."""

TIMEOUT = "W2VLAB_FETCH_TIMEOUT"
"""Environment variable: seconds without a byte after which a connection is given up."""

_DEFAULTS: dict[str, Seconds] = {PATIENCE: 300.0, TIMEOUT: 30.0}
_FIRST_PAUSE: Seconds = 0.5
_LONGEST_PAUSE: Seconds = 30.0

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass
class Retries:
    """Failed requests of this process.

    Attributes:
        total: Their number.
    """

    total: int = 0


retries = Retries()


def seconds_of(variable: str) -> Seconds:
    """Returns the value of one of the environment variables, in seconds.

    Raises:
        ValueError: It is no positive number.
    """
    return positive_from_environment(variable, _DEFAULTS[variable], "a number of seconds")


@dataclass
class Attempts:
    """The attempts to fetch a file.

    Attributes:
        url: Its URL, for messages.
        patience: Seconds without progress after which it is given up; 0 for a single attempt.
    """

    url: str
    patience: Seconds
    _failed: int = 0
    _most: int = 0
    _pause: Seconds = field(default_factory=lambda: _FIRST_PAUSE)
    _since: float = field(default_factory=time.monotonic)

    def reached(self, size: int) -> None:
        """Starts patience anew if there are more bytes than ever before."""
        if size > self._most:
            self._most = size
            self._pause = _FIRST_PAUSE
            self._since = time.monotonic()

    def failed(self, error: OutageError) -> None:
        """Counts a failure, and waits before the next attempt.

        Raises:
            FetchError: There was no progress for too long.
        """
        self._failed += 1
        retries.total += 1
        waited = time.monotonic() - self._since
        if waited + self._pause > self.patience:
            tried = f"{count(self._failed, 'attempt')} in {duration(waited)}"
            raise FetchError(f"{self.url}: {error} ({tried}): check the server and the network.") from error
        if retries.total & (retries.total - 1) == 0:
            logger.warning(
                "Fetching %s fails (%s) and is tried again for up to %s without progress; %s in this process so far.",
                self.url,
                error,
                duration(self.patience),
                count(retries.total, "failed request"),
            )
        # Many processes must not ask at the same moment when the server is back.
        time.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def succeeded(self) -> None:
        """Logs how often the file was tried, if it was not the first attempt."""
        if self._failed:
            logger.info("Fetched %s after %s.", self.url, count(self._failed, "failed request"))


def with_retries(url: str, request: Callable[[], Result]) -> Result:
    """Returns the result of a request, which is repeated as long as it fails for a reason that may pass.

    Args:
        url: Its URL, for messages.
        request: Called without arguments.

    Raises:
        FetchError: It fails for another reason, or for too long.
    """
    attempts = Attempts(url, seconds_of(PATIENCE))
    while True:
        try:
            result = request()
        except OutageError as error:
            attempts.failed(error)
        else:
            attempts.succeeded()
            return result
