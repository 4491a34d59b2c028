"""What the kernel says of its clock. Reads only."""

import ctypes

# adjtimex(2): the result of a clock that nothing synchronises, and that bit of `status`.
_TIME_ERROR, _STA_UNSYNC = 5, 0x40


class _Timex(ctypes.Structure):
    """The begin of `struct timex`; the rest is not read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock_state() -> dict[str, object]:
    """Whether the kernel's clock is synchronised, and the bound of its error in seconds; `unknown` if not told."""
    found = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(found))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return {"state": "unknown"}
    if state == _TIME_ERROR or found.status & _STA_UNSYNC:
        return {"state": "not synchronised"}
    return {"state": "synchronised", "max_error_s": found.maxerror / 1e6}
