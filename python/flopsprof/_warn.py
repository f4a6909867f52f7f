"""Warnings that end nothing."""

import functools
import sys
import warnings


def warn(message, stacklevel=2):
    """Warns; on stderr where the program has made warnings errors: a training is worth more than what we have to say of it."""
    message = f"flopsprof: {message}"
    try:
        warnings.warn(message, stacklevel=stacklevel + 1)
    except Warning:
        print(message, file=sys.stderr)


def harmless(method):
    """A method of which no exception comes out; it is said once of each object and method."""

    @functools.wraps(method)
    def guarded(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            said = self.__dict__.setdefault("_failed", set())
            if method.__name__ not in said:
                said.add(method.__name__)
                warn(f"{method.__name__}: {error!r}: what comes of it is not in the count", stacklevel=3)
            return None

    return guarded
