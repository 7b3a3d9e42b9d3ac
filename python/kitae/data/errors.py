"""The error of every reader."""


class DataError(ValueError):
    """A data file is missing, damaged or of another kind; the message is one line: file, expected, found."""

    def __init__(self, path, expected, found):
        super().__init__(f"{path}: expected {expected}, found {found}")
