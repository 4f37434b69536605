"""Numbers in messages."""


def counted(number: int, noun: str, verb: str = "", verb_of_many: str = "") -> str:
    """
    >>> [counted(1, "video"), counted(2000, "video"), counted(1, "file", "is", "are"), counted(2, "file", "is", "are")]
    ['1 video', '2,000 videos', '1 file is', '2 files are']
    """
    said = f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
    return " ".join(filter(None, [said, verb if number == 1 else verb_of_many]))
