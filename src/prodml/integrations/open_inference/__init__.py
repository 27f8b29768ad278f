"""The Open Inference Protocol, version 2, over REST: an ASGI application for your models.

>>> from prodml.integrations.open_inference import TensorSpec, open_inference_app
>>> app = open_inference_app(
...     {"sum": lambda rows: rows.sum(axis=1)}, inputs=[TensorSpec("x", "FP32", (-1, 2))]
... )
>>> app.repository["sum"].metadata("sum")["versions"]
['1']

Run it: ``uvicorn service:app``.  The clients of Triton, KServe and MLServer talk to it as
it is.  No web framework is needed, nor used.

``tensors.py``, ``signature.py``, ``mapping.py`` and ``messages.py`` turn bytes into rows and
back and know nothing of HTTP; ``backends.py`` and ``endpoint.py`` ask the models;
``inference.py``, ``repository.py`` and ``calls.py`` are the calls of the protocol, ``paths.py``
finds them; ``http.py`` and ``app.py`` are the shell.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.integrations.open_inference.app import OpenInferenceApp, open_inference_app
    from prodml.integrations.open_inference.backends import Question
    from prodml.integrations.open_inference.endpoint import Endpoint
    from prodml.integrations.open_inference.mapping import Rows, Tabular, TensorMapping
    from prodml.integrations.open_inference.refusals import Refusal, refusal_of
    from prodml.integrations.open_inference.repository import Loader, Unloader
    from prodml.integrations.open_inference.signature import Tensor, TensorSpec

__all__ = [
    "Endpoint",
    "Loader",
    "OpenInferenceApp",
    "Question",
    "Refusal",
    "Rows",
    "Tabular",
    "Tensor",
    "TensorMapping",
    "TensorSpec",
    "Unloader",
    "open_inference_app",
    "refusal_of",
]

load_on_use(
    __name__,
    {
        ".app": ("OpenInferenceApp", "open_inference_app"),
        ".backends": ("Question",),
        ".endpoint": ("Endpoint",),
        ".mapping": ("Rows", "Tabular", "TensorMapping"),
        ".refusals": ("Refusal", "refusal_of"),
        ".repository": ("Loader", "Unloader"),
        ".signature": ("Tensor", "TensorSpec"),
    },
)
