"""The one kind of error that people who use a model, a command or a recipe can put right themselves."""


class PolyvidError(ValueError):
    """Something a user can put right: the message says what is wrong, where, and what to do.

    Commands print it as one line. Every other exception is a defect of the program and keeps its traceback.
    """
