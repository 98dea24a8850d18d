"""The multimodal LLM that describes images, composes queries and judges candidates.

``MultimodalModel`` (in ``model``) is what the rest of the project uses: any image-text-to-text model of
transformers. It keeps the vision outputs of images and the attention keys and values of shared prompt
beginnings, so that nothing is computed twice. What a prompt says, and what is done with an answer, belongs to
``composing`` and ``reranking``.

====================  ================================================================================
``model``             ``MultimodalModel``: loads a model and puts the parts below together
``loading``           transformers' processor and model, a PEFT adapter, the identity of the weights
``model_files``       what is wrong with a model's folder, as far as its files tell
``architectures``     what a configuration and a class say of how a model works
``suitability``       whether a model can describe, compose and judge, without its weights
``special_tokens``    token ids by role: image placeholder, padding, end of text, Yes and No
``pictures``          ``Picture``: an image file or its bytes
``prompt``            ``RenderedPrompt``: texts and picture slots
``token_rows``        chat template, tokenising, image placeholders: prompts to ``TokenRow``
``vision``            the vision tower in batches
``features``          its outputs, and the memory of them
``kept_features``     the same on disk: bounded, a file per image
``prepared_inputs``   pictures decoded and processed ahead of it
``forward``           the language model over token rows, continued from cached prefixes; Yes/No scores
``shared_prefix``     the same for the judge's pairs, over prefixes that are read in place
``prefix_attention``  attention of packed rows to shared prefixes and to themselves
``answering``         answers: side by side, or by transformers' own ``generate``
``generation``        greedy answers side by side: those that have ended make room for others
``prompt_passes``     passes over prompts; what several begin with is run once
``answer_rows``       keys and values of the answers in work, rows of lengths of their own
``plain_pass``        the same by transformers' own means: the reference, and for other architectures
``packed_pass``       the language model for training: a batch in one sequence, shared prefixes once
``packed_attention``  its attention, with gradients through the shared prefixes
``last_layer``        the last layer, only for the tokens that are read
``lean_layers``       normalisations, MLPs and rotary positions with fewer passes over memory
``caching_check``     whether the cached passes and the plain one give the same scores
``endpoint``          ``EndpointModel``: texts by a model behind an OpenAI-compatible endpoint
``errors``            ``JudgeError``, ``RefusedTextError``, ``VisionOutputsError``
====================  ================================================================================
"""

from setr_lib.models.multimodal.endpoint import EndpointError, EndpointModel
from setr_lib.models.multimodal.errors import JudgeError, RefusedTextError, VisionOutputsError
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
    "VisionOutputsError",
]
