"""Parts that the messages of refusals share."""

AGAIN = "run the entry again"


def quoted(value: object) -> str:
    """A value of a record for a message: short, without line ends and escape codes."""
    text = ascii(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


_LONGEST = 60
