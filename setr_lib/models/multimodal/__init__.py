"""The multimodal LLM that describes images, composes queries and judges candidates.

``MultimodalModel`` (in ``model``) is what the rest of the project uses: any image-text-to-text model of
transformers. It keeps the vision outputs of images and the attention keys and values of shared prompt
beginnings, so that nothing is computed twice. What a prompt says, and what is done with an answer, belongs to
``composing`` and ``reranking``.

====================  ======================================================================================
====================  ======================================================================================
from setr_lib.models.multimodal.endpoint import EndpointError, EndpointModel
from setr_lib.models.multimodal.errors import JudgeError, RefusedTextError
from setr_lib.models.multimodal.model import MultimodalModel
from setr_lib.models.multimodal.pictures import Picture, PictureError
from setr_lib.models.multimodal.prompt import (
    CANDIDATE,
    IMAGE,
    REFERENCE,
    ImageSlot,
    RenderedPrompt,
    Request,
)
from setr_lib.models.multimodal.token_rows import TokenRow

TextModel = MultimodalModel | EndpointModel
"""Who can be asked for generated texts."""

__all__ = [
    "CANDIDATE",
    "IMAGE",
    "REFERENCE",
    "EndpointError",
    "EndpointModel",
    "ImageSlot",
    "JudgeError",
    "MultimodalModel",
    "Picture",
    "PictureError",
    "RefusedTextError",
    "RenderedPrompt",
    "Request",
    "TextModel",
    "TokenRow",
]
