"""The C interface of libflopsprof.so, found in this process if it was preloaded.

Every call is cheap (an atomic or a swapped pointer) and none waits. Where the library is not there each answers False.
"""

import ctypes
import json

_NAMES = {
    "flopsprof_declare_parameters": [ctypes.c_uint64, ctypes.c_uint64],
    "flopsprof_add_tokens": [ctypes.c_uint64],
    "flopsprof_mark_step": [],
    "flopsprof_mark_batch": [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64],
    "flopsprof_mark_phase": [ctypes.c_char_p],
    "flopsprof_declare_model": [ctypes.c_char_p, ctypes.c_uint64],
    "flopsprof_declare_work": [ctypes.c_char_p, ctypes.c_uint64],
}


class Library:
    """The functions of a loaded library; those that it lacks do nothing."""

    def __init__(self, handle=None):
        handle = ctypes.CDLL(None) if handle is None else handle
        self._functions = {}
        for name, arguments in _NAMES.items():
            function = getattr(handle, name, None)
            if function is not None:
                function.argtypes, function.restype = arguments, ctypes.c_int
                self._functions[name] = function
        version = getattr(handle, "flopsprof_version", None)
        self.version = None
        if version is not None:
            version.restype = ctypes.c_char_p
            self.version = version().decode()

    def _call(self, name, *arguments):
        function = self._functions.get(name)
        return function is not None and function(*arguments) == 0

    def declare_parameters(self, total, trainable):
        return self._call("flopsprof_declare_parameters", total, trainable)

    def add_tokens(self, tokens):
        return self._call("flopsprof_add_tokens", tokens)

    def mark_step(self):
        return self._call("flopsprof_mark_step")

    def mark_batch(self, rows, length, decoder_length=0):
        return self._call("flopsprof_mark_batch", rows, length, decoder_length)

    def mark_phase(self, name):
        return self._call("flopsprof_mark_phase", name.encode())

    def declare_model(self, declaration):
        return self._json("flopsprof_declare_model", declaration)

    def declare_work(self, work):
        return self._json("flopsprof_declare_work", work)

    def _json(self, name, value):
        text = json.dumps(value, separators=(",", ":")).encode()
        return self._call(name, text, len(text))


_library = None


def library():
    """The library of this process; looked up once."""
    global _library
    if _library is None:
        _library = Library()
    return _library


def loaded():
    """Whether libflopsprof.so is in this process, so that operations are counted and not only estimated."""
    return library().version is not None


def library_version():
    """Its version; None without it."""
    return library().version
