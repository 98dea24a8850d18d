"""The error of everything that loads, prompts or runs the multimodal model."""

from __future__ import annotations

from setr_lib.errors import SetrError


class JudgeError(SetrError):
    """The multimodal model (settings section ``models.judge``), a prompt or a picture cannot be used.

    The message says which of them, why, and what to change.
    """


class RefusedTextError(JudgeError):
    """The model's tokenizer refuses a prompt's text, or it is longer than the model reads.

    Args:
        message: What is wrong.
        prompt: The prompt.
    """

    def __init__(self, message: str, prompt: object = None) -> None:
        self.prompt = prompt
        super().__init__(message)


class VisionOutputsError(JudgeError):
    """A model gives no vision outputs of one image each, to be reused; its own forward pass may work."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted in another message.

    Args:
        error: Any exception, its message possibly of many lines or empty.

    Returns:
        The first line, or the exception's class name where the message is empty.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
